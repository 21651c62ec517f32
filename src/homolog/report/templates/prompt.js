// A prompt: what both models make of a sentence, and what changing a feature does. All text of models is put as text nodes.
(() => {
  "use strict";
  const { element, number, shown } = explorer;
  const at = (id) => document.getElementById(id);
  const about = JSON.parse(at("about").textContent);
  const PREDICTED = 6, WIDEST = 10;  // rows of a prediction; largest multiple of the slider
  let read = null, unit = 0, chosen = null, changed = null;

  // Characters that nobody sees, or that turn text around, by name.
  const visible = (text) => shown(text)
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replaceAll("\u007f", "␡")
    .replace(/[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
      (c) => `<${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
  const token = (text) => element("code", { class: "token" }, visible(text));
  const percent = (p) => (p < 0.001 ? "<0.1%" : number(p, { percent: true }));
  const names = () => read.models.map(({ name }) => name);
  const colour = (side) => `model-${about.pairs[read.pair][side] % 4}`;
  const pair = () => Number(at("ask").elements.pair.value || 0);

  async function ask(what, question) {
    let answer, said;
    try {
      answer = await fetch(what, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) });
      said = await answer.json();
    } catch {
      throw new Error("homolog serve does not answer. Start it again, and open the address that it says.");
    }
    if (!answer.ok) throw new Error(said.error);
    return said;
  }

  function complain(error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  }

  // The two models' texts of a stretch; where both have one tokenizer, one text.
  const textsOf = ({ tokens: [a, b, c, d] }) => [[0, a, b], [1, c, d]].map(([side, first, last]) =>
    read.models[side].tokens.slice(first, last + 1).map(([text]) => visible(text)));
  const lastOf = (side) => read.units[unit].tokens[side ? 3 : 1];
  const here = () => textsOf(read.units[unit])[0].join("");

  function drawUnits() {
    const most = Math.max(1, ...read.units.map(({ n_links }) => n_links));
    at("read-says").textContent = (read.one_text
      ? "Both models read these tokens. "
      : `Each box is a stretch of text at whose end both have read the same: above as ${names()[0]} cuts it, below as ${names()[1]} does. `) +
      "The darker, the more shared features fire there. Choose one.";
    at("units").replaceChildren(...read.units.map((one, place) => {
      const texts = textsOf(one), why = read.models[0].tokens[one.tokens[1]][1] ?? read.models[1].tokens[one.tokens[3]][1];
      const lines = read.one_text
        ? [element("span", {}, texts[0].join(""))]
        : texts.map((parts, side) => element("span", { class: colour(side) }, parts.map((part) => element("i", {}, part))));
      const title = why === "sink" ? "Left out by the run: its activations dwarf all others"
        : why ? "A special token: left out by the run" : `${one.n_links} shared features fire here`;
      const made = element("button", {
        type: "button", title, "data-unit": place, "aria-pressed": String(place === unit),
        class: `${read.one_text ? "one" : "two"}${why ? " aside" : ""}`, style: { "--shared": one.n_links / most } }, lines);
      return made;
    }));
    drawMoved();
  }

  // How far the prediction after each token has moved.
  function drawMoved() {
    const most = Math.max(...(changed?.moved ?? []), 0.005);
    for (const button of at("units").children) {
      const place = read.units[button.dataset.unit].tokens[changed?.side ? 3 : 1];
      button.style.setProperty("--moved", changed ? changed.moved[place] / most : 0);
    }
  }

  function drawNext() {
    at("next-title").replaceChildren("Next token after ", token(here()));
    at("next").replaceChildren(...read.models.map((model, side) => {
      const own = changed && changed.side === side ? changed : null;
      const rows = own ? own.predictions[lastOf(side)] : model.predictions[lastOf(side)].map(([id, p]) => [id, p]);
      const says = !changed ? null : own ? "pale before, full after" : "not changed";
      return element("article", { class: `predicts ${colour(side)}`, "aria-label": `Predictions of ${model.name}` },
        element("h3", {}, model.name, says && element("small", {}, says)),
        element("ol", {}, rows.slice(0, PREDICTED).map(([id, before, after]) => element("li", {},
          element("div", { class: "row" }, token((own ?? model).names[id]),
            element("span", { class: "p" }, after === undefined ? percent(before) : `${percent(before)} → ${percent(after)}`)),
          element("span", { class: after === undefined ? "bar" : "bar before", style: { "--p": before } }),
          after === undefined ? null : element("span", { class: "bar", style: { "--p": after } })))));
    }));
  }

  const isChosen = (side, key) => chosen?.side === side && chosen.key === key;
  function feature(side, key, value, says) {
    const { largest, words } = read.models[side].features[key];
    const share = largest ? Math.min(1, value / largest) : 1;
    return element("button", {
      type: "button", class: `feature ${colour(side)}`, "data-side": side, "data-key": key, "aria-pressed": String(isChosen(side, key)),
      title: largest ? `${number(100 * share, { digits: 0 })}% of its largest activation in the run` : false },
      element("span", { class: "row" }, element("span", { class: "at" }, key.replace("/", " / ")), ...words.map(token),
        element("span", { class: "value" }, number(value))),
      element("span", { class: "bar", style: { "--p": share } }), says && element("small", {}, says));
  }

  function partnerOf(side, key, fires) {
    const { partner } = read.models[side].features[key], other = names()[1 - side];
    if (!partner) return `no partner in ${other}`;
    const r = `r ${number(partner.r)}`, best = partner.at.replace("/", " / ");
    return partner.homolog ? `homolog ${best}, ${r}, ${fires ? "fires too" : "silent here"}` : `no homolog; nearest ${best}, ${r}`;
  }

  function drawFiring() {
    const { links, others, n_links, n } = read.units[unit];
    at("firing-title").replaceChildren("Features that fire at ", token(here()));
    const aligned = read.one_text || about.align === "last" ? "" : " Of several tokens of a stretch the largest counts.";
    at("firing-says").textContent = n_links
      ? `${n[0]} fire in ${names()[0]}, ${n[1]} in ${names()[1]}. ${n_links === 1 ? "One is" : `${n_links} are`} shared: joined by a line, with the correlation r on the run’s text${n_links > links.length ? ` (the strongest ${links.length})` : ""}. Named by layer / feature and the tokens each fires on most; the bar is the share of its largest activation.${aligned}`
      : `${n[0]} fire in ${names()[0]}, ${n[1]} in ${names()[1]}, and none of them is shared.${aligned}`;
    const heads = element("li", { class: "heads" }, element("span", {}, names()[0]), element("span", {}), element("span", {}, names()[1]));
    at("links").replaceChildren(...(links.length ? [heads] : []), ...links.map(([a, b, r, x, y]) => element("li", {},
      feature(0, a, x), element("span", { class: "joined", title: `correlation r ${number(r, { digits: 3 })}` }, `r ${number(r)}`),
      feature(1, b, y))));
    at("others").replaceChildren(...others.map((some, side) => element("div", {},
      element("h3", {}, `Others in ${names()[side]}`),
      element("ul", {}, some.map(([key, value]) => element("li", {}, feature(side, key, value, partnerOf(side, key, false))))),
      some.length ? null : element("p", { class: "read" }, "None."))));
  }

  const how = () => document.querySelector("[name=how]:checked").value;
  const UNCHANGED = 1;
  function settle(times = UNCHANGED) {
    const slider = at("amount"), top = chosen.largest || 2 * chosen.value || 1;
    const [max, step, now] = how() === "times" ? [WIDEST, 0.25, times] : [2 * top, top / 50, times * chosen.value];
    Object.assign(slider, { min: 0, max, step });
    slider.value = now;
  }

  function drawControls() {
    at("controls").hidden = !chosen;
    at("changing").className = `panel ${chosen ? colour(chosen.side) : ""}`;
    if (!chosen) {
      at("changing-title").textContent = "Change a feature";
      at("changing-says").textContent = "Choose a feature of either model to take it out or to turn it up.";
      return;
    }
    const name = names()[chosen.side], [layer, number_] = chosen.key.split("/");
    at("changing-title").textContent = `Layer ${layer}, feature ${number_} of ${name}`;
    at("changing-says").textContent = "Move the slider: 0 takes it out. Only this model changes.";
    at("only-says").replaceChildren("only at ", token(read.models[chosen.side].tokens[lastOf(chosen.side)][0]));
    at("explored").hidden = !about.explored;
    at("explored").href = "../../report/explorer/index.html#" + new URLSearchParams({
      from: name, to: names()[1 - chosen.side], feature: chosen.key }).toString().replaceAll("+", "%20");
    const amount = Number(at("amount").value);
    at("slide-says").textContent = how() === "times" ? "Times" : "Value";
    at("amount-says").textContent = how() === "times" ? `× ${amount}` : number(amount);
  }

  function drawOutcome() {
    if (!changed) {
      at("outcome").textContent = "";
      return;
    }
    const moved = changed.moved[lastOf(changed.side)], active = changed.activations[lastOf(changed.side)];
    const bars = changed.moved.some((one) => one > 0.005) ? " Red lines under the tokens show where predictions moved most." : "";
    at("outcome").textContent =
      `Its activation here is now ${number(active)}. ${percent(moved)} of the probability has moved to other next tokens.${bars}`;
  }

  function draw() {
    drawUnits();
    drawNext();
    drawFiring();
    drawControls();
    drawOutcome();
  }

  // The latest wish is asked once the one before is answered.
  let asking = false, wish = null;
  async function change() {
    wish = { side: chosen.side, question: {
      text: read.text, pair: read.pair, model: names()[chosen.side],
      layer: Number(chosen.key.split("/")[0]), feature: Number(chosen.key.split("/")[1]),
      token: at("only").checked ? lastOf(chosen.side) : null, [how()]: Number(at("amount").value) } };
    if (asking) return;
    asking = true;
    try {
      while (wish) {
        const { side, question } = wish, of = read;
        wish = null;
        const said = await ask("change", question);
        if (of !== read || !chosen) continue;
        changed = { ...said, side };
        at("problem").hidden = true;
        drawMoved();
        drawNext();
        drawOutcome();
      }
    } catch (error) {
      wish = null;
      complain(error);
    }
    asking = false;
    done();
  }
  const done = () => { document.documentElement.dataset.prompt = String(Number(document.documentElement.dataset.prompt ?? 0) + 1); };

  function choose(side, key) {
    const own = read.units[unit], link = own.links.find((one) => one[side] === key);
    const value = link ? link[3 + side] : own.others[side].find(([other]) => other === key)[1];
    chosen = isChosen(side, key) ? null : { side, key, value, largest: read.models[side].features[key].largest };
    changed = null;
    if (chosen) settle();
    draw();
    if (!chosen) return;
    const panel = at("changing").getBoundingClientRect();
    if (panel.top < 0 || panel.bottom > innerHeight) at("changing").scrollIntoView({ block: "nearest" });
  }

  async function submit() {
    at("status").textContent = "Both models are reading …";
    try {
      const question = { text: at("text").value, pair: pair() };
      const said = await ask("read", question);
      read = { ...said, pair: question.pair };
      [unit, chosen, changed, wish] = [read.units.length - 1, null, null, null];
      at("problem").hidden = true;
      at("said").hidden = false;
      draw();
    } catch (error) {
      at("said").hidden = true;  // which is of another text
      complain(error);
    }
    at("status").textContent = "";
    done();
  }

  at("ask").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  at("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  at("units").addEventListener("click", ({ target }) => {
    const button = target.closest("[data-unit]");
    if (!button) return;
    unit = Number(button.dataset.unit);
    draw();
    at("units").children[unit].focus();
    if (chosen && at("only").checked) change();
  });
  at("units").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    at("units").children[Math.min(read.units.length - 1, Math.max(0, unit + step))].click();
  });
  at("firing").addEventListener("click", ({ target }) => {
    const button = target.closest(".feature");
    if (!button) return;
    const { side, key } = button.dataset;
    choose(Number(side), key);
    at("firing").querySelector(`[data-side="${side}"][data-key="${key}"]`).focus({ preventScroll: true });
  });
  at("controls").addEventListener("input", ({ target }) => {
    if (target.name === "how") settle();
    drawControls();
    change();
  });
  at("controls").addEventListener("click", ({ target }) => {
    const times = target.closest("[data-times]")?.dataset.times;
    if (times === undefined) return;
    settle(Number(times));
    drawControls();
    change();
  });

  const select = at("ask").elements.pair;
  select.replaceChildren(...about.pairs.map((models, place) =>
    element("option", { value: place }, models.map((model) => about.models[model]).join(" and "))));
  at("pairs").hidden = about.pairs.length < 2;
  select.addEventListener("change", submit);
  submit();
})();
