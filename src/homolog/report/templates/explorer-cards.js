// The list as cards: of each feature its match in words and two contexts, read when the card comes into sight.
const explorerCards = (() => {
  "use strict";
  const { element, token } = explorer;
  const CONTEXTS = 2, BEFORE = 14, AFTER = 5;
  const AHEAD = "300px";  // of the window, within which a card counts as in sight
  const box = document.getElementById("cards");
  const pending = new WeakMap();

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      pending.get(target)();
    }
  }, { rootMargin: AHEAD });

  // The link to a feature, with its token.
  const named = ({ place, href, words }, row = false) => [
    element("a", { href, "data-row": row }, `${place.layer} / ${place.feature}`),
    ...(words === undefined ? [] : [" ", token(words)])];

  function verdict(match) {
    if (match?.homolog) return element("p", { class: "reason homolog" }, "Homolog");
    if (!match?.best || !("homolog" in match)) return null;
    return element("p", { class: "reason" }, match.fails ? explorerReasons.sentence(match) : "no homolog");
  }

  function contexts(all) {
    const shown = all.slice(0, CONTEXTS).map((one) => explorerContexts.shaded(explorerContexts.near(one, BEFORE, AFTER)));
    return shown.length ? shown : [element("p", { class: "read" }, "No contexts were kept.")];
  }

  // One card. `own`, `partner`: { place, href, words }; `numbers`: [title, text] each.
  function card({ row, own, partner, numbers, model, read }) {
    const body = element("div", { class: "glimpse", "aria-busy": "true" });
    const made = element("li", { class: `card model-${model % 4}` },
      element("h2", {}, named(own, row)),
      element("p", { class: "to" }, partner ? ["→ ", ...named(partner)] : "no partner"),
      element("dl", {}, numbers.map(([title, text]) => element("div", {}, element("dt", {}, title), element("dd", {}, text)))),
      body);
    pending.set(made, async () => {
      try {
        const { match, contexts: given } = await read();
        body.replaceChildren(...[verdict(match)].filter(Boolean), ...contexts(given));
      } catch (error) {
        body.replaceChildren(element("p", { class: "read" }, error.message));
      }
      body.removeAttribute("aria-busy");
    });
    return made;
  }

  function draw(label, cards) {
    watcher.disconnect();
    box.setAttribute("aria-label", label);
    box.replaceChildren(...cards.map(card));
    for (const made of box.children) watcher.observe(made);
  }

  return { draw, named, box };
})();
