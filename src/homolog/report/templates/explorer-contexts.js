// Contexts of a feature: text whose tokens are shaded by activation.
const explorerContexts = (() => {
  "use strict";
  const { element, number, shown } = explorer;
  const spoken = (text) => element("span", { class: "spoken" }, text);

  // A text of tokens, each with the share of the feature's largest activation; `peak`: which one is underlined.
  function shaded({ tokens, peak, scale }) {
    const parts = tokens.map(({ text, share }, i) => {
      if (share === 0) return shown(text);
      const value = number(share * scale), style = { "--share": share.toFixed(3) };
      const of = text ? "" : ", on a part of the next character";
      const kind = [i === peak && "peak", !shown(text) && "part"].filter(Boolean).join(" ");
      return element("mark", { style, class: kind || false, title: `activation ${value}${of}` },
        shown(text), spoken(` (${value}) `));
    });
    return element("p", { class: "context" }, parts);
  }

  const where = ({ document, position }) => `document ${document}, position ${position}`;

  // Of a context the tokens next to its peak: a glimpse for where space is short.
  function near(given, before, after) {
    const first = Math.max(0, given.peak - before), tokens = given.tokens.slice(first, given.peak + after + 1);
    return { ...given, tokens, peak: given.peak - first };
  }

  const strongest = (all) => all.filter(({ quantile }) => quantile === 1);

  return { shaded, spoken, where, near, strongest };
})();
