// A feature and its best partner on the same text, one over the other, where either fires most.
const explorerOverlay = (() => {
  "use strict";
  const { element, number } = explorer;
  const { shaded, where, strongest } = explorerContexts;
  const IN_SIGHT = 3;  // texts of a group
  const GROUPS = [
    ["both", "Where both fire"], ["own", "Where this feature fires and its partner is silent"],
    ["partner", "Where its partner fires and this feature is silent"],
  ];

  // The same tokens with the activations of the other of the two, by their places.
  function laidOver(context, fires, scale) {
    const tokens = context.tokens.map(({ text }) => ({ text, share: 0 }));
    for (const [at, value] of fires) if (at < tokens.length) tokens[at].share = Math.min(1, value / scale);
    return { tokens, scale, peak: -1 };
  }

  const highest = ({ tokens, scale }) => scale * tokens.reduce((most, { share }) => Math.max(most, share), 0);

  function line({ name, index }, text) {
    const most = highest(text);
    return element("div", { class: `line model-${index % 4}` },
      element("p", { class: "who" }, name, element("small", {}, most ? `up to ${number(most)}` : "silent")), shaded(text));
  }

  function entry({ own, partner, context }, names) {
    return element("li", {}, line(names[0], own), line(names[1], partner),
      element("p", { class: "where" }, where(context)));
  }

  // `examples`: of explorer.overlay; `sides`: { name, index, contexts, scale } of the feature and its partner.
  function draw(examples, sides) {
    const [mine, theirs] = sides, tops = sides.map(({ contexts }) => strongest(contexts));
    const entries = examples.flatMap(({ rank, ofPartner, fires }) => {
      const context = tops[ofPartner ? 1 : 0][rank];
      if (!context) return [];
      const other = laidOver(context, fires, (ofPartner ? mine : theirs).scale || 1);
      const kind = fires.length ? "both" : ofPartner ? "partner" : "own";
      return [{ kind, context, own: ofPartner ? other : context, partner: ofPartner ? context : other }];
    });
    const list = (some) => element("ol", { class: "contexts overlay" }, some.map((one) => entry(one, sides)));
    const groups = GROUPS.flatMap(([kind, title]) => {
      const some = entries.filter((one) => one.kind === kind);
      if (!some.length) return [];
      const more = some.slice(IN_SIGHT);
      return [element("h4", {}, `${title} (${some.length})`), list(some.slice(0, IN_SIGHT)),
        more.length ? element("details", {}, element("summary", {}, `More of these (${more.length})`), list(more)) : null];
    });
    return element("section", { class: "same-text" }, element("h3", {}, "Both on the same text"),
      element("p", { class: "read" }, "The strongest contexts of either, shaded for each of the two by its own largest."),
      ...groups);
  }

  return { draw };
})();
