// Draws the figures: fits each to the width at hand, swaps its colours in the dark, and falls back to the SVG file.
(() => {
  "use strict";
  const inTheDark = matchMedia("(prefers-color-scheme: dark)");
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const darkColours = read("dark-colours");
  const charts = [...document.querySelectorAll(".chart")];
  const views = new Map();
  const NARROW = 560;

  function recoloured(value) {
    if (Array.isArray(value)) return value.map(recoloured);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recoloured(item)]));
    return typeof value === "string" && Object.hasOwn(darkColours, value) ? darkColours[value] : value;
  }

  // usermeta.axes: pixels that axis labels take left of the panels, or of each panel where usermeta.each.
  function fitted(spec, width) {
    const narrow = width < NARROW;
    const { axes, each } = spec.usermeta;
    const inner = width - 2 * spec.config.padding - 14;
    if (spec.facet) {
      const columns = narrow ? 1 : spec.columns;
      const gap = typeof spec.spacing === "object" ? spec.spacing.column : spec.spacing;
      spec.columns = columns;
      const taken = (each ? axes : Math.min(axes, 132)) + (columns - 1) * gap;
      spec.spec.width = Math.max(120, Math.floor((inner - taken) / columns));
    } else {
      spec.width = Math.max(120, inner - axes);
    }
    if (narrow) {
      spec.config.axis.labelFontSize = 10.5;
      spec.config.axis.titleFontSize = 11.5;
      spec.config.header.labelFontSize = 12;
      spec.config.legend.labelFontSize = 11.5;
      spec.config.legend.layout.top.direction = "vertical";
      spec.config.legend.layout.top.margin = 8;
      oneColumn(spec);
    }
    return spec;
  }

  // Axis labels take what their text needs; the panels get what that leaves over, or give up what is missing.
  async function embedded(chart, spec, width) {
    const tooltip = { theme: inTheDark.matches ? "dark" : "light" };
    const options = { mode: "vega-lite", actions: false, renderer: "svg", logLevel: 1, tooltip };
    const stage = document.createElement("div");  // Vega labels its own element; the chart keeps our words
    chart.replaceChildren(stage);
    const first = await vegaEmbed(stage, spec, options);
    const spare = width - stage.querySelector("svg").width.baseVal.value;
    if (Math.abs(spare) < 3) return first;
    const sized = spec.facet ? spec.spec : spec;
    sized.width = Math.max(80, sized.width + Math.floor(spare / (spec.facet ? spec.columns : 1)));
    first.finalize();
    return vegaEmbed(stage, spec, options);
  }

  // Vega calls every mark an image; one without a name (a rule, an empty layer) says nothing to those who listen.
  // A chart with a switch is no image: what is inside can be reached.
  function named(chart) {
    chart.setAttribute("role", chart.querySelector("input") ? "group" : "img");
    for (const mark of chart.querySelectorAll('[role="graphics-symbol"]:not([aria-label])'))
      mark.setAttribute("aria-hidden", "true");
  }

  function oneColumn(value) {
    if (!value || typeof value !== "object") return;
    for (const [key, item] of Object.entries(value)) {
      if (key === "legend" && item) item.columns = 1;
      else if (key !== "data") oneColumn(item);
    }
  }

  async function draw(chart) {
    const name = chart.dataset.figure;
    const width = Math.floor(chart.clientWidth);
    let spec = fitted(read(`spec-${name}`), width);
    if (inTheDark.matches) spec = recoloured(spec);
    spec.config.background = "transparent";
    try {
      views.get(chart)?.finalize();
      views.set(chart, await embedded(chart, spec, width));
      named(chart);
      chart.dataset.drawn = String(width);
    } catch (error) {
      const image = new Image();
      image.src = chart.dataset.file;
      image.alt = "";
      chart.replaceChildren(image);
      console.error(error);
    }
  }

  let drawing = Promise.resolve();
  function drawAll(force) {
    drawing = drawing.then(async () => {
      for (const chart of charts)
        if (force || chart.dataset.drawn !== String(Math.floor(chart.clientWidth))) await draw(chart);
      document.documentElement.dataset.charts = "drawn";
    });
  }

  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => drawAll(false), 150); });
  inTheDark.addEventListener("change", () => drawAll(true));
  drawAll(true);
})();
