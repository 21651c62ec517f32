// The page of a feature beside its best partner in the other model.
const explorerFeature = (() => {
  "use strict";
  const { element, number, token } = explorer;
  const IN_SIGHT = 8;  // contexts
  const LONG = 30;  // characters of a fact that has a line of its own
  const SVG = "http://www.w3.org/2000/svg";
  const percent = (value) => number(value, { percent: true });
  const yes = (value) => (value ? "yes" : "no");
  const facts = (pairs) => element("dl", { class: "facts" }, pairs.map(([name, value, says]) =>
    element("div", { class: value.length > LONG && "long" },
      element("dt", { title: says ?? false }, name), element("dd", {}, value))));
  const tokens = (texts) => texts.flatMap((text) => [token(text), " "]);
  const section = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);

  const chance = (value) => (value < 0.001 ? value.toExponential(0).replace("-", "−") : number(value, { digits: 3 }));
  const saysOf = (name) => explorer.manifest().columns.find((column) => column.name === name)?.says;

  // What the match says, with links to the runner-up and the one-to-one partner.
  function match(found, link, causal) {
    const rows = [["Correlation r", number(found.r, { digits: 3 })]];
    const add = (name, title, says, text = (value) => number(value, { digits: 3 })) => {
      if (name in found) rows.push([title, text(found[name]), says]);
    };
    add("excess", "Excess", saysOf("excess"));
    add("null_r", "Chance reaches", "95% quantile of the best correlation by chance at its frequency");
    add("q", "False discovery rate", "at which the match is called", chance);
    add("homolog", "Homolog", "passes all tests", yes);
    if (found.fails) rows.push(["Because", explorerReasons.sentence(found)]);
    if (found.witnesses) rows.push(["Witnesses", found.witnesses, "who says that the other model has it"]);
    add("bar", "A homolog needs", "the bar: least r of a homolog");
    add("beyond", "Beyond controls", saysOf("beyond"));
    add("control_r", "Controls together", "multiple correlation of the feature with all its controls");
    add("token_r2", "Current token alone", "share of its variance that it explains", percent);
    add("untrained_r", "An untrained model", "highest r with an untrained model of the same kind");
    add("mutual", "Mutual", "its best partner’s best partner is the feature itself", yes);
    add("stable", "Stable", "the partner comes back across dictionary seeds", yes);
    for (const [name, title] of [["partner", "One-to-one partner"], ["runner_up", "Runner-up"]])
      if (found[name]) rows.push([title, [link(found[name]), ` r ${number(found[name][2], { digits: 3 })}`]]);
    if (causal !== undefined) rows.push(["Causal agreement", number(causal), saysOf("causal_r")]);
    return section("The match", facts(rows));
  }

  function scatter({ x, y, top }, names) {
    const SIZE = 240, LEFT = 46, BELOW = 34, at = (share) => share / 255 * SIZE;
    const text = (content, attributes) => element("text", { xmlns: SVG, ...attributes }, content);
    const dots = [...x].map((value, i) => element("circle", {
      xmlns: SVG, cx: LEFT + at(value), cy: SIZE - at(y[i]), r: 2.6 }));
    const tops = top.map((value) => number(value));
    const words = `Activations at ${x.length} tokens: ${names[0]} to the right, up to ${tops[0]}; ` +
      `${names[1]} upwards, up to ${tops[1]}`;
    const box = `-4 -8 ${SIZE + LEFT + 14} ${SIZE + BELOW + 12}`;
    return element("figure", { class: "activations" },
      element("svg", { xmlns: SVG, viewBox: box, role: "img", "aria-label": words },
        element("path", { xmlns: SVG, class: "axis", d: `M${LEFT} 0V${SIZE}H${SIZE + LEFT}` }), ...dots,
        text("0", { x: LEFT, y: SIZE + 14 }),
        text(tops[0], { x: LEFT + SIZE, y: SIZE + 14, "text-anchor": "end" }),
        text(names[0], { x: LEFT + SIZE / 2, y: SIZE + 30, "text-anchor": "middle" }),
        text(tops[1], { x: LEFT - 5, y: 8, "text-anchor": "end" }),
        text(names[1], { "text-anchor": "middle", transform: `translate(${LEFT - 18} ${SIZE / 2}) rotate(-90)` })),
      element("figcaption", {}, "Activations of both at the same tokens"));
  }

  const context = (given) => element("li", {}, explorerContexts.shaded(given), element("p", { class: "where" },
    `${number(given.value)} · ${explorerContexts.where(given)}`));

  // The strongest contexts in sight, the rest and the lower quantiles folded.
  function contexts(all) {
    const list = (items) => element("ol", { class: "contexts" }, items.map(context));
    const folded = (title, items) => (items.length
      ? [element("details", {}, element("summary", {}, `${title} (${items.length})`), list(items))] : []);
    const strongest = explorerContexts.strongest(all);
    const lower = [...new Set(all.map(({ quantile }) => quantile))].filter((quantile) => quantile !== 1);
    return [
      ...(strongest.length ? [section("Strongest contexts", list(strongest.slice(0, IN_SIGHT)))] : []),
      ...folded("More of the strongest", strongest.slice(IN_SIGHT)),
      ...lower.flatMap((quantile) => folded(`Higher than ${Math.round(quantile * 100)}% of its active tokens`,
        all.filter((one) => one.quantile === quantile)))];
  }

  function depth(layer, sizes) {
    const share = (layer + 1) / sizes.length;
    const bar = element("span", { style: { width: `${100 * share}%` } });
    return element("div", { class: "depth" },
      element("span", {}, `layer ${layer}: depth ${layer + 1} of ${sizes.length}`),
      element("span", { class: "track", "aria-hidden": "true" }, bar));
  }

  // One model's side: what is known of the feature by itself.
  function side(model, index, place, record, link, heading, role) {
    const measures = explorer.manifest().columns.filter(
      ({ of_pair, name }) => !of_pair && name in record && name !== "causal_r");
    const words = [["promoted", "Promotes"], ["suppressed", "Suppresses"], ["top_tokens", "Fires most on"]];
    const stats = measures.map((column) => [column.title, number(record[column.name], column), column.says]);
    if ("max" in record) stats.push(["Largest activation", number(record.max)]);
    if ("n_active" in record) stats.push(["Active tokens", record.n_active.toLocaleString("en")]);
    const nothing = record.n_active === 0 ? "It never fires in this corpus." : "No contexts were kept.";
    const label = `${model.name}, layer ${place.layer}, feature ${place.feature}`;
    return element("article", { class: `side model-${index % 4}`, "aria-label": label },
      element("p", { class: "eyebrow" }, role), element("h2", {}, heading), depth(place.layer, model.sizes),
      record.explanation ? element("p", { class: "explanation" }, record.explanation,
        element("small", {}, "a language model’s words")) : null,
      words.filter(([name]) => record[name]).map(([name, title]) =>
        element("p", { class: "tokens" }, element("strong", {}, title), " ", ...tokens(record[name]))),
      contexts(record.contexts),
      record.contexts.length ? null : element("p", { class: "read" }, nothing),
      stats.length ? section("Numbers", facts(stats)) : null,
      record.near ? section("Nearest in its own dictionary", element("ul", { class: "near" },
        record.near.map(([feature, cosine]) =>
          element("li", {}, link([place.layer, feature]), ` cosine ${number(cosine)}`)))) : null);
  }

  async function draw(state, addressOf, current) {
    const { models, pairs } = explorer.manifest(), place = state.feature;
    const model = models[state.from], other = models[state.to];
    if (!(place.feature < (model.sizes[place.layer] ?? 0)))
      throw new Error(`${model.name} has no feature ${place.feature} in layer ${place.layer} in this run.`);
    const record = await explorer.details(state.from, place.layer, place.feature);
    const found = record.matches?.[state.to] ?? {};
    const linkIn = (from, to) => ([layer, feature]) => element("a", {
      href: addressOf({ ...state, from, to, feature: { layer, feature } }) }, `${layer} / ${feature}`);
    const best = found.best && { layer: found.best[0], feature: found.best[1] };
    const [partner, examples, ...flows] = await Promise.all([
      best && explorer.details(state.to, best.layer, best.feature),
      best ? explorer.overlay(state.from, place.layer, place.feature, state.to) : [],
      explorerFlow.lines(state.from, place),
      best ? explorerFlow.lines(state.to, best) : null,
    ]);
    const title = `${model.name}, layer ${place.layer}, feature ${place.feature}`;
    const others = pairs.filter(([i, j]) => i === state.from && j !== state.to).map(([i, j]) => element("a", {
      href: addressOf({ ...state, to: j }) }, `Its partner in ${models[j].name}`));
    const points = record.scatter?.[state.to];
    const named = ({ name }, { layer, feature }) => `${name} ${layer} / ${feature}`;
    const own = side(
      model, state.from, place, record, linkIn(state.from, state.to), named(model, place), "This feature");
    const mirrored = { ...state, from: state.to, to: state.from, feature: best };
    const theirs = partner
      ? side(other, state.to, best, partner, linkIn(state.to, state.from),
        element("a", { href: addressOf(mirrored) }, named(other, best)), "Best partner")
      : element("article", { class: "side" }, element("h2", {}, other.name), element("p", {},
        "It has no partner there: its activation never changes, or the pair was not compared."));
    const neighbour = (step, words) => element("a", { "data-neighbour": step, hidden: true }, words);
    if (!current()) return title;
    document.getElementById("feature").replaceChildren(
      element("nav", { "aria-label": "Features" },
        element("a", { href: addressOf({ ...state, feature: null }), "data-back": true }, "All features"),
        neighbour(-1, "← Previous"), neighbour(1, "Next →"), others),
      element("div", { class: points ? "match with-points" : "match" },
        match(found, linkIn(state.to, state.from), record.causal_r),
        points ? scatter(points, [model.name, other.name]) : null),
      explorerFlow.draw([
        { name: model.name, index: state.from, place, flow: flows[0], link: linkIn(state.from, state.to) },
        { name: other.name, index: state.to, place: best, flow: flows[1], link: linkIn(state.to, state.from) }]) ?? "",
      ...(examples.length ? [explorerOverlay.draw(examples, [
        { ...record, name: model.name, index: state.from }, { ...partner, name: other.name, index: state.to }])] : []),
      element("div", { class: "sides" }, own, theirs));
    return title;
  }

  return { draw };
})();
