// How a feature goes on through the layers of its model: its ancestors, itself, its descendants.
const explorerFlow = (() => {
  "use strict";
  const { element, number } = explorer;
  const NONE = 4294967295;

  const END = { before: "born here", after: "dies here" };

  // From a feature one way to where its line ends: [{ layer, feature, r, cosine }], nearest first, and how it ends.
  async function line(model, { layer, feature }, way) {
    const steps = [];
    for (let at = { layer, feature }; ;) {
      const next = await explorer.flow(model, at.layer, at.feature, way);
      if (!next || next.feature === NONE) return { steps, end: null };  // the first or last kept block, or it is silent
      if (!next.counts) return { steps, end: { ...next, words: END[way] } };
      steps.push(next);
      at = next;
    }
  }

  // { before, after } of a feature; null where the run does not follow it.
  async function lines(model, place) {
    if (!explorer.manifest().flows.includes(`${model}-${place.layer}`)) return null;
    const [before, after] = await Promise.all(["before", "after"].map((way) => line(model, place, way)));
    return { before, after };
  }

  const said = ({ r, cosine }) => `r ${number(r)}, cosine of the directions ${number(cosine)}`;

  // What leads from one to the next of a line: it belongs to the one that is farther from the feature itself.
  const arrow = (step) => element("span", { class: "r", title: said(step) }, `${number(step.r)} →`);

  const ended = (end) => (end ? element("li", { class: "end", title: `the nearest in layer ${end.layer} has ${said(end)}` },
    end.words) : null);

  function row({ name, index, place, flow, link }) {
    const ancestors = flow.before.steps.toReversed(), descendants = flow.after.steps;
    const to = ({ layer, feature }) => link([layer, feature]);
    const entries = [
      ...ancestors.map((one, i) => element("li", {}, i ? arrow(ancestors[i - 1]) : null, to(one))),
      element("li", { class: "here", "aria-current": "true" },
        ancestors.length ? arrow(ancestors.at(-1)) : null, element("b", {}, `${place.layer} / ${place.feature}`)),
      ...descendants.map((one) => element("li", {}, arrow(one), to(one)))];
    return element("div", { class: `line model-${index % 4}` }, element("p", { class: "who" }, name),
      element("ol", { class: "flow" }, ended(flow.before.end), entries, ended(flow.after.end)));
  }

  // `sides`: { name, index, place, flow, link } of the feature and, where there is one, its best partner.
  function draw(sides) {
    const known = sides.filter(({ flow }) => flow);
    if (!known.length) return null;
    return element("section", { class: "through" }, element("h3", {}, "Through the layers"),
      element("p", { class: "read" }, "Its ancestors and descendants, each as layer / feature, and r of one with the next on the same text."),
      ...known.map(row));
  }

  return { lines, draw };
})();
