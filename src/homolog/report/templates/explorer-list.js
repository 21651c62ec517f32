// The list of features of one model, looked for in another: filters, order, pages.
const explorerList = (() => {
  "use strict";
  const { element, number, token } = explorer;
  const PAGE = { rows: 50, cards: 24, map: Infinity }, NONE = 2 ** 32 - 1;
  const form = document.getElementById("filters");
  const columnOf = (name) => explorer.manifest().columns.find((column) => column.name === name);
  const placeFor = (column, state) => (column.of_pair ? `${state.from}-${state.to}` : `${state.from}`);
  const existing = (state) => explorer.manifest().columns.filter(
    (column) => column.of.includes(placeFor(column, state)));
  const shownColumns = (state) => existing(state).filter(
    ({ name, first }) => first || state.measures || name === state.sort || state.ranges.has(name));
  const columnFor = (state, name) => explorer.column(placeFor(columnOf(name), state), name);

  // Numbers of the rows that pass every filter, in the order of the state.
  async function rows(state) {
    const model = explorer.manifest().models[state.from];
    const n = model.sizes.reduce((sum, size) => sum + size, 0);
    const keep = new Uint8Array(n).fill(1);
    const where = (test) => { for (let row = 0; row < n; row++) if (keep[row] && !test(row)) keep[row] = 0; };
    if (state.layer !== null) {
      const begin = explorer.rowOf(model, state.layer, 0), end = begin + model.sizes[state.layer];
      where((row) => row >= begin && row < end);
    }
    if (state.toLayer !== null) {
      const other = explorer.manifest().models[state.to], begin = explorer.rowOf(other, state.toLayer, 0);
      const { codes } = await explorer.column(`${state.from}-${state.to}`, "best");
      where((row) => codes[row] >= begin && codes[row] < begin + other.sizes[state.toLayer]);
    }
    if (state.homolog) {
      const { codes, words } = await explorer.column(`${state.from}-${state.to}`, "homolog");
      const passes = words.map((verdict) => (state.homolog === "no"
        ? verdict !== "" && verdict !== "yes" : verdict.split(", ").includes(state.homolog)));
      where((row) => passes[codes[row]]);
    }
    if (state.witnesses) {
      const { codes, words } = await explorer.column(`${state.from}-${state.to}`, "witnesses");
      const passes = words.map((said) => stands(said, state.witnesses));
      where((row) => passes[codes[row]]);
    }
    for (const [name, [lo, hi]] of state.ranges) {
      const { at, within } = await columnFor(state, name);
      const least = Number.isFinite(lo) ? lo - within(lo) : lo, most = Number.isFinite(hi) ? hi + within(hi) : hi;
      where((row) => at(row) >= least && at(row) <= most);
    }
    if (state.text) {
      const place = state.text.match(/^\s*(\d+)\s*\/\s*(\d+)\s*$/);
      const found = place ? null : await explorer.search(state.from, state.text, state.fires);
      const [layer, feature] = (place ?? []).slice(1).map(Number);
      const asked = feature < model.sizes[layer] ? explorer.rowOf(model, layer, feature) : -1;
      where(place ? (row) => row === asked : (row) => found?.[row]);
    }
    return state.sort === "feature" ? inOrder(keep, state) : sorted(keep, await sortCodes(state), state.descending);
  }

  // What can be asked of the witnesses of a pair, and in which words; "" for all.
  function witnesses({ from, to }) {
    const against = explorer.manifest().against[`${from}-${to}`];
    if (!against) return [["", "any"]];
    return [["", "any"], ["agree", "all agree"], ...(against.length ? [["disagree", "disagree"]] : []),
      ...against.map((pair) => [pair, pair.replace("-", " yes, ") + " no"])];
  }

  // Whether "verdict yes, weights no" is what is asked: "verdict-weights", "disagree" or "agree", of two or more.
  function stands(said, asked) {
    const answers = Object.fromEntries(said.split(", ").map((answer) => answer.split(" ")));
    const all = said ? Object.values(answers) : [], split = new Set(all).size > 1;
    if (asked === "disagree" || asked === "agree") return all.length > 1 && split === (asked === "disagree");
    const [one, other] = asked.split("-");
    return answers[one] === "yes" && answers[other] === "no";
  }

  function inOrder(keep, state) {
    const found = [];
    keep.forEach((kept, row) => { if (kept) found.push(row); });
    return Uint32Array.from(state.descending ? found.reverse() : found);
  }

  const sortCodes = async (state) =>
    (await (state.sort === "token" ? explorer.column(state.from, "token") : columnFor(state, state.sort))).codes;

  // A counting sort by code; equal codes stay in the order of rows, undefined ones (65535) come last both ways.
  function sorted(keep, codes, descending) {
    const wide = codes instanceof Uint32Array, last = wide ? codes.reduce((a, b) => Math.max(a, b), 0) + 1 : 65535;
    const place = (code) => (code !== last && descending ? last - 1 - code : code);
    const size = last + 1;
    const ends = new Uint32Array(size + 1);
    for (let row = 0; row < keep.length; row++) if (keep[row]) ends[place(codes[row]) + 1]++;
    for (let code = 0; code < size; code++) ends[code + 1] += ends[code];
    const out = new Uint32Array(ends[size]);
    for (let row = 0; row < keep.length; row++) if (keep[row]) out[ends[place(codes[row])]++] = row;
    return out;
  }

  const heading = (state, name, title, says, classes) => {
    const current = state.sort === name;
    const arrow = current ? element("span", { "aria-hidden": "true" }, state.descending ? " ↓" : " ↑") : "";
    return element("th", {
      scope: "col", class: `${classes}${current ? " sorted" : ""}`,
      "aria-sort": current ? (state.descending ? "descending" : "ascending") : false,
    }, element("button", { type: "button", "data-sort": name, title: says }, title, arrow));
  };

  async function draw(state, found, addressOf, current) {
    const { models, classified } = explorer.manifest();
    const [model, other] = [models[state.from], models[state.to]];
    const columns = shownColumns(state), pair = `${state.from}-${state.to}`;
    const values = await Promise.all(columns.map(({ name }) => columnFor(state, name)));
    const [best, homolog, ...tokens] = await Promise.all([
      explorer.column(pair, "best"), classified && explorer.column(pair, "homolog"),
      ...[state.from, state.to].map((i) => models[i].tokens && explorer.column(i, "token"))]);
    if (!current()) return;
    const word = (side, row) => (tokens[side] ? tokens[side].words[tokens[side].codes[row]] : undefined);
    // A feature and its partner: where they are, their pages, the token of each.
    const sides = (row) => {
      const own = { place: explorer.placeOf(model, row), words: word(0, row) }, at = best.codes[row];
      own.href = addressOf({ ...state, feature: own.place });
      if (at === NONE) return { own, partner: null };
      const partner = { place: explorer.placeOf(other, at), words: word(1, at) };
      partner.href = addressOf({ ...state, from: state.to, to: state.from, feature: partner.place });
      return { own, partner };
    };
    const line = (row) => {
      const { own, partner } = sides(row);
      return element("tr", {},
        element("th", { scope: "row" }, explorerCards.named(own, row)),
        element("td", {}, partner ? explorerCards.named(partner) : "–"),
        values.map(({ at }, i) => element("td", { class: classOf(columns[i], state) }, number(at(row), columns[i]))),
        classified ? verdictOf(homolog.words[homolog.codes[row]]) : null);
    };
    const verdictOf = (verdict) => {
      const [first, ...more] = explorerReasons.short(verdict || "–");
      return element("td", { class: "spare", title: more.length ? `and ${more.join("; ")}` : false }, first);
    };
    const table = document.getElementById("features");
    table.caption.textContent =
      `Features of ${model.name} and their best partners in ${other.name}, as layer / feature`;
    table.tHead.replaceChildren(element("tr", {},
      heading(state, "feature", model.name, "by layer and feature", ""),
      element("th", { scope: "col" }, other.name),
      columns.map((column) => heading(state, column.name, column.title, column.says, classOf(column, state))),
      classified ? element("th", { scope: "col", class: "spare" }, "Homolog") : null));
    const size = PAGE[state.view], last = Math.max(1, Math.ceil(found.length / size));
    const page = Math.min(state.page, last);
    const onPage = state.view === "map" ? [] : [...found.slice((page - 1) * size, page * size)];
    const asCards = state.view === "cards";
    table.closest(".scroll").hidden = state.view !== "rows";
    explorerCards.box.hidden = !asCards;
    explorerMap.box.hidden = state.view !== "map";
    table.tBodies[0].replaceChildren(...(state.view === "rows" ? onPage.map(line) : []));
    explorerCards.draw(table.caption.textContent, (asCards ? onPage : []).map((row) => ({
      row, ...sides(row), model: state.from,
      numbers: values.map(({ at }, i) => [columns[i].title, number(at(row), columns[i])]),
      read: () => card(state, explorer.placeOf(model, row)),
    })));
    if (state.view === "map") await picture(state, found, { best, word, addressOf, current });
    if (!current()) return;
    const all = model.sizes.reduce((sum, size) => sum + size, 0).toLocaleString("en");
    document.getElementById("count").textContent = found.length
      ? `${found.length.toLocaleString("en")} of ${all} features`
      : `None of ${all} features: widen or clear the filters.`;
    document.getElementById("page").textContent = `page ${page.toLocaleString("en")} of ${last.toLocaleString("en")}`;
    document.getElementById("pages").hidden = last === 1;
    for (const button of document.querySelectorAll("#pages button")) {
      button.value = page + Number(button.dataset.step);
      button.disabled = button.value < 1 || button.value > last;
    }
  }
  async function card(state, { layer, feature }) {
    const { matches, contexts } = await explorer.details(state.from, layer, feature);
    return { match: matches?.[state.to], contexts };
  }

  // The map: what the list has, and its partners; the others of both models are pale.
  async function picture(state, found, { best, word, addressOf, current }) {
    const { models } = explorer.manifest(), pair = [state.from, state.to];
    const sides = pair.map((index) => ({
      name: models[index].name, index, listed: new Uint8Array(models[index].sizes.reduce((a, b) => a + b, 0)) }));
    if (found.length === sides[0].listed.length) for (const { listed } of sides) listed.fill(1);
    else for (const row of found) {
      sides[0].listed[row] = 1;
      if (best.codes[row] !== NONE) sides[1].listed[best.codes[row]] = 1;
    }
    const place = ({ side, row }) => explorer.placeOf(models[pair[side]], row);
    const words = (point) => {
      const { layer, feature } = place(point), top = word(point.side, point.row);
      return [`${sides[point.side].name} ${layer} / ${feature} `, top === undefined ? "" : token(top)];
    };
    const follow = (point) => {
      const [from, to] = point.side ? [state.to, state.from] : pair;
      location.hash = addressOf({ ...state, from, to, feature: place(point) });
    };
    await explorerMap.draw(sides, words, follow, current);
  }

  // What is spare gives way on a phone.
  const classOf = ({ name }, { sort }) => (name === sort ? "num sorted" : name === "r" ? "num" : "num spare");

  // The form and the state say the same: `fill` after the address changed, `read` after the form did.
  const option = (value, text, selected) => element("option", { value, selected }, text);
  function layers(select, model, chosen) {
    const numbers = model.sizes.flatMap((size, layer) => (size ? [layer] : []));
    select.replaceChildren(
      option("", "any", chosen === null), ...numbers.map((i) => option(i, String(i), i === chosen)));
  }

  function fill(state) {
    const { models, pairs, classified } = explorer.manifest(), fields = form.elements;
    fields.pair.replaceChildren(...pairs.map(([i, j]) =>
      option(`${i}-${j}`, `${models[i].name} → ${models[j].name}`, i === state.from && j === state.to)));
    layers(fields.layer, models[state.from], state.layer);
    layers(fields.to_layer, models[state.to], state.toLayer);
    form.querySelector("[data-classified]").hidden = !classified;
    if (document.activeElement !== fields.text) fields.text.value = state.text;
    fields.fires.value = state.fires ? "1" : "";
    if (fields.homolog.length < 4) fields.homolog.append(
      ...Object.entries(explorerReasons.words).map(([name, words]) => option(name, `no: ${words}`, false)));
    fields.homolog.value = state.homolog;
    form.querySelector("[data-witnesses]").hidden = witnesses(state).length === 1;
    fields.witnesses.replaceChildren(
      ...witnesses(state).map(([value, words]) => option(value, words, value === state.witnesses)));
    fields.measures.checked = state.measures;
    form.querySelector("[data-mapped]").hidden = !explorer.manifest().mapped;
    fields.view.value = state.view;
    const sorts = [["feature", "Layer and feature"], ...(models[state.from].tokens ? [["token", "Token"]] : []),
      ...existing(state).map(({ name, title }) => [name, title])];
    fields.sort.replaceChildren(...sorts.flatMap(([name, title]) => [
      option(`-${name}`, `${title}, highest first`, state.sort === name && state.descending),
      option(name, `${title}, lowest first`, state.sort === name && !state.descending)]));
    ranges(state);
    if (state.ranges.size || state.toLayer !== null || !state.fires || state.witnesses) document.getElementById("more").open = true;
  }

  // Fields are made anew only for other columns: one that was just left must not take the focus of the next along.
  function ranges(state) {
    const box = document.getElementById("ranges"), columns = existing(state);
    const names = columns.map(({ name }) => name).join();
    if (box.dataset.names !== names) {
      for (const old of box.querySelectorAll("fieldset")) old.remove();
      box.append(...columns.map(range));
      box.dataset.names = names;
    }
    for (const { name, percent } of columns)
      (state.ranges.get(name) ?? [NaN, NaN]).forEach((value, i) => {
        const input = form.elements[`${name}-${i ? "hi" : "lo"}`];
        const text = Number.isFinite(value) ? String(percent ? Number((value * 100).toPrecision(10)) : value) : "";
        if (input !== document.activeElement) input.value = text;
      });
  }

  const range = ({ name, title, says, percent }) => {
    const input = (end, label, hint) => element("input", {
      name: `${name}-${end}`, type: "number", step: "any", placeholder: hint, "aria-label": `${title}, ${label}` });
    return element("fieldset", {}, element("legend", { title: says }, percent ? `${title}, %` : title),
      input("lo", "at least", "min"), input("hi", "at most", "max"));
  };

  function read(state) {
    const fields = form.elements, [from, to] = fields.pair.value.split("-").map(Number);
    const layer = (field) => (field.value === "" ? null : Number(field.value));
    const ranges = new Map();
    for (const { name, percent } of existing(state)) {
      const [lo, hi] = ["lo", "hi"].map((end) => fields[`${name}-${end}`].value);
      const scaled = (text, none) => (text === "" ? none : Number(text) / (percent ? 100 : 1));
      if (lo !== "" || hi !== "") ranges.set(name, [scaled(lo, -Infinity), scaled(hi, Infinity)]);
    }
    const sort = fields.sort.value;
    return {
      ...state, from, to, ranges, page: 1, text: fields.text.value.trim(), fires: fields.fires.value === "1",
      layer: from === state.from ? layer(fields.layer) : null, toLayer: to === state.to ? layer(fields.to_layer) : null,
      homolog: fields.homolog.value, witnesses: fields.witnesses.value, measures: fields.measures.checked, view: fields.view.value,
      sort: sort.replace(/^-/, ""), descending: sort.startsWith("-"),
    };
  }

  const views = () => Object.keys(PAGE).filter((view) => view !== "map" || explorer.manifest().mapped);
  const verdicts = ["yes", "no", ...Object.keys(explorerReasons.words)];
  return { rows, draw, fill, read, existing, form, verdicts, witnesses, views };
})();
