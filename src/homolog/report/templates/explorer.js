// The address after # is the whole state: it says which list or which feature, and changes with every choice.
(() => {
  "use strict";
  const manifest = explorer.manifest();
  const [list, page, heading, problem] =
    ["list", "feature", "title", "problem"].map((id) => document.getElementById(id));
  const form = explorerList.form, named = document.title.slice("Features".length);
  let state, found = null, lastList = null, turn = 0;

  // Without an address: the homologs of which controls explain least, each in its contexts.
  const OPENING = "homolog=yes&sort=-beyond&view=cards";

  function parsed(address) {
    const given = new URLSearchParams(address.replace(/^#/, "") || (manifest.opens_on_homologs ? OPENING : ""));
    const whole = (name) => (/^\d+$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
    const index = (name) => {
      const place = manifest.models.findIndex((model) => model.name === given.get(name));
      if (given.has(name) && place < 0) throw new Error(`This run has no model ${given.get(name)}.`);
      return place;
    };
    const [from, to] = [index("from"), index("to")];
    const pair = manifest.pairs.find(([i, j]) => (from < 0 || i === from) && (to < 0 || j === to)) ??
      manifest.pairs.find(([i]) => i === from) ?? manifest.pairs[0];
    const sort = given.get("sort") ?? "-r", place = (given.get("feature") ?? "").match(/^(\d+)\/(\d+)$/);
    const read = {
      from: pair[0], to: pair[1], layer: whole("layer"), toLayer: whole("to_layer"), page: whole("page") || 1,
      text: given.get("text") ?? "", fires: given.get("anywhere") !== "1", measures: given.get("measures") === "1",
      view: explorerList.views().includes(given.get("view")) ? given.get("view") : "rows",
      homolog: manifest.classified && explorerList.verdicts.includes(given.get("homolog")) ? given.get("homolog") : "",
      witnesses: given.get("witnesses") ?? "",
      sort: sort.replace(/^-/, ""), descending: sort.startsWith("-"), ranges: new Map(),
      feature: place && { layer: Number(place[1]), feature: Number(place[2]) },
    };
    if (place && from >= 0 && from !== pair[0]) {  // a feature has its page also where its model is only looked in
      read.from = from;
      read.to = to >= 0 && to !== from ? to : pair[0];
    }
    if (!(read.layer < manifest.models[read.from].sizes.length)) read.layer = null;
    if (!(read.toLayer < manifest.models[read.to].sizes.length)) read.toLayer = null;
    if (!explorerList.witnesses(read).some(([value]) => value === read.witnesses)) read.witnesses = "";
    const columns = explorerList.existing(read);
    const words = manifest.models[read.from].tokens ? ["token"] : [];
    const sorts = ["feature", ...words, ...columns.map(({ name }) => name)];
    if (!sorts.includes(read.sort)) [read.sort, read.descending] = ["r", true];
    for (const { name } of columns) {
      const [lo, hi] = (given.get(name) ?? "").split("..");
      if (hi === undefined || Number.isNaN(Number(lo)) || Number.isNaN(Number(hi))) continue;
      read.ranges.set(name, [lo === "" ? -Infinity : Number(lo), hi === "" ? Infinity : Number(hi)]);
    }
    return read;
  }

  function addressOf({ from, to, feature, ...rest }) {
    const said = [["from", manifest.models[from].name], ["to", manifest.models[to].name]];
    if (feature) said.push(["feature", `${feature.layer}/${feature.feature}`]);
    else {
      const end = (value) => (Number.isFinite(value) ? String(value) : "");
      const sort = `${rest.descending ? "-" : ""}${rest.sort}`;
      said.push(["layer", rest.layer], ["to_layer", rest.toLayer], ["homolog", rest.homolog], ["witnesses", rest.witnesses], ["text", rest.text],
        ["anywhere", !rest.fires && rest.text ? "1" : ""], ["measures", rest.measures ? "1" : ""],
        ["view", rest.view === "rows" ? "" : rest.view],
        ["sort", sort === "-r" ? "" : sort], ["page", rest.page > 1 ? rest.page : ""],
        ...[...rest.ranges].map(([name, [lo, hi]]) => [name, `${end(lo)}..${end(hi)}`]));
    }
    const kept = said.filter(([, value]) => value !== null && value !== "");
    return `#${kept.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2F", "/")}`).join("&")}`;
  }

  async function render() {
    const mine = ++turn, before = state, current = () => mine === turn;
    try {
      if (!manifest) throw new Error("data/manifest.js is missing: make the report again.");
      state = parsed(location.hash);
      const rows = state.feature ? found : await explorerList.rows(state);
      if (!current()) return;
      const title = state.feature ? await explorerFeature.draw(state, addressOf, current) : "Features";
      if (!current()) return;
      if (!state.feature) {
        found = rows;
        lastList = state;
        explorerList.fill(state);
        await explorerList.draw(state, rows, addressOf, current);
      } else neighbours();
      if (!current()) return;
      list.hidden = Boolean(state.feature);
      page.hidden = !state.feature;
      problem.hidden = true;
      heading.textContent = title;
      document.title = title + named;
      if (before && (state.feature || before.feature)) moved(before);
    } catch (error) {
      if (!current()) return;
      problem.textContent = error.message;
      problem.hidden = false;
    }
    document.documentElement.dataset.explorer = location.hash || "#";
    requestAnimationFrame(() => setTimeout(() => performance.mark("explorer-shown")));
  }

  const rowOf = ({ from, feature }) => explorer.rowOf(manifest.models[from], feature.layer, feature.feature);

  // The focus follows: to the heading of a feature, or back to the line of the list that it was opened from.
  function moved(before) {
    const row = before.feature && rowOf(before);
    const line = state.feature ? null : list.querySelector(`a[data-row="${row}"]`);
    if (line) line.focus();
    else {
      heading.focus({ preventScroll: true });
      scrollTo({ top: 0, behavior: "instant" });
    }
  }

  function neighbours() {
    const here = found && lastList.from === state.from ? found.indexOf(rowOf(state)) : -1;
    for (const link of page.querySelectorAll("[data-neighbour]")) {
      const row = here < 0 ? undefined : found[here + Number(link.dataset.neighbour)];
      link.hidden = row === undefined;
      if (row === undefined) continue;
      link.href = addressOf({ ...state, feature: explorer.placeOf(manifest.models[state.from], row) });
    }
    if (lastList) page.querySelector("[data-back]").href = addressOf({ ...lastList, feature: null });
  }

  const go = (next) => { location.hash = addressOf(next); };
  let typing;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => { clearTimeout(typing); go(explorerList.read(state)); });
  form.addEventListener("input", ({ target }) => {
    if (target.name !== "text") return;
    clearTimeout(typing);
    typing = setTimeout(() => location.replace(addressOf(explorerList.read(state))), 300);
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    form.elements.text.value = "";
    go({ ...parsed("sort=-r"), from: state.from, to: state.to, view: state.view });
  });
  list.addEventListener("click", ({ target }) => {
    const sort = target.closest("[data-sort]")?.dataset.sort, step = target.closest("[data-step]");
    const line = target.closest("a, button") ? null : target.closest("tbody tr, .card");
    if (line && getSelection().isCollapsed) line.querySelector("a[data-row]").click();
    if (sort) go({ ...state, page: 1, sort, descending: state.sort === sort ? !state.descending : sort !== "feature" });
    if (step) {
      go({ ...state, page: Number(step.value) });
      document.getElementById("count").scrollIntoView({ block: "start" });
    }
  });
  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault();
    (list.hidden ? page : list).querySelector(list.hidden ? "a" : "a[data-row]")?.focus();
  });

  const STEPS = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const writing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !writing && !list.hidden) {
      event.preventDefault();
      form.elements.text.focus();
    } else if (!list.hidden && !writing && event.key in STEPS) along(event);
    else if (list.hidden && event.key === "Escape") page.querySelector("[data-back]").click();
    else if (list.hidden && !writing && ["ArrowLeft", "ArrowRight"].includes(event.key))
      page.querySelector(`[data-neighbour="${event.key === "ArrowLeft" ? -1 : 1}"]:not([hidden])`)?.click();
  });
  function along(event) {
    const links = [...list.querySelectorAll("a[data-row]")], here = links.indexOf(document.activeElement);
    if (here < 0 && event.target !== document.body && !event.target.closest("table, .scroll, #cards")) return;
    if (state.view === "rows" && !event.key.match(/Up|Down/)) return;
    if (!links.length) return;
    event.preventDefault();
    const next = here < 0 ? 0 : here + STEPS[event.key] * across(event.key);
    links[Math.min(links.length - 1, Math.max(0, next))]?.focus();
  }
  // Cards that stand side by side, which an arrow up or down goes past.
  function across(key) {
    const [first, ...more] = [...explorerCards.box.children].map((card) => card.offsetTop);
    const beside = 1 + Math.max(0, more.findIndex((top) => top !== first));
    return state.view === "cards" && key.match(/Up|Down/) ? beside : 1;
  }

  addEventListener("hashchange", render);
  render();
})();
