// The list as a picture: every feature of both models where features that fire alike stand together.
const explorerMap = (() => {
  "use strict";
  const { element } = explorer;
  const NOWHERE = 65535, MARGIN = 0.02, RADIUS = 10, CLOSEST = 40;  // pixels around the pointer; how far it zooms in
  const box = document.getElementById("map");
  const canvas = box.querySelector("canvas"), hint = box.querySelector(".hint"), ring = box.querySelector(".ring");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let points = [], look = { zoom: 1, x: 0.5, y: 0.5 }, asked = 0, pointed = null, dragged = null;

  const placesOf = (model) => explorer.load(`map/${model}`);

  // Points of a model: row, place in the unit square less a margin, and whether the list has it.
  function pointsOf(side, { x, y }, listed) {
    const inset = (code) => MARGIN + (1 - 2 * MARGIN) * code / 65534, made = [];
    for (let row = 0; row < x.length; row++)
      if (x[row] !== NOWHERE)
        made.push({ side, row, x: inset(x[row]), y: 1 - inset(y[row]), listed: listed[row] === 1 });
    return made;
  }

  // From the unit square to the canvas and back.
  const width = () => canvas.clientWidth, height = () => canvas.clientHeight;
  const toX = (x) => width() * ((x - look.x) * look.zoom + 0.5), toY = (y) => height() * ((y - look.y) * look.zoom + 0.5);
  const fromX = (px) => (px / width() - 0.5) / look.zoom + look.x, fromY = (py) => (py / height() - 0.5) / look.zoom + look.y;

  function paint() {
    asked = 0;
    const sharp = devicePixelRatio || 1, drawn = canvas.getContext("2d");
    if (!width() || !points.length) return;
    [canvas.width, canvas.height] = [width() * sharp, height() * sharp];
    drawn.scale(sharp, sharp);
    const size = Math.min(7, (points.length > 5000 ? 2.2 : 3.4) * Math.sqrt(look.zoom));
    const colours = [0, 1].map((side) => getComputedStyle(box.querySelector(`[data-side="${side}"]`)).getPropertyValue("--model"));
    for (const listed of [false, true])
      for (const side of [1, 0]) {
        drawn.fillStyle = colours[side];
        drawn.globalAlpha = listed ? 0.75 : 0.1;
        for (const point of points)
          if (point.side === side && point.listed === listed)
            drawn.fillRect(toX(point.x) - size / 2, toY(point.y) - size / 2, size, size);
      }
  }
  const repaint = () => { if (!asked) asked = requestAnimationFrame(paint); };

  // The nearest point that the list has, else any.
  function under({ offsetX, offsetY }) {
    let best = null, least = Infinity;
    for (const point of points) {
      const distance = Math.hypot(toX(point.x) - offsetX, toY(point.y) - offsetY);
      const cost = distance + (point.listed ? 0 : RADIUS);
      if (distance <= RADIUS && cost < least) [best, least] = [point, cost];
    }
    return best;
  }

  function point(at) {
    pointed = at;
    hint.hidden = ring.hidden = !at;
    canvas.style.cursor = at ? "pointer" : "";
    if (!at) return;
    const [x, y] = [toX(at.x), toY(at.y)];
    for (const [part, left] of [[ring, x], [hint, Math.min(x, width() - 220)]]) {
      part.style.setProperty("left", `${Math.max(0, left)}px`);
      part.style.setProperty("top", `${y}px`);
    }
    hint.replaceChildren(...describe(at));
  }
  let describe = () => [], open = () => {};

  function zoom(by, x = look.x, y = look.y) {
    const next = Math.min(CLOSEST, Math.max(1, look.zoom * by)), kept = 1 - look.zoom / next;
    look = { zoom: next, x: look.x + (x - look.x) * kept, y: look.y + (y - look.y) * kept };
    if (next === 1) look = { zoom: 1, x: 0.5, y: 0.5 };
    point(null);
    repaint();
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons !== 1 || !dragged) return point(under(event));
    const [dx, dy] = [event.offsetX - dragged.x, event.offsetY - dragged.y];
    if (Math.hypot(dx, dy) > 3) dragged.moved = true;
    if (!dragged.moved || look.zoom === 1) return undefined;
    look = { ...look, x: dragged.look.x - dx / width() / look.zoom, y: dragged.look.y - dy / height() / look.zoom };
    point(null);
    return repaint();
  });
  canvas.addEventListener("pointerdown", ({ offsetX, offsetY }) => { dragged = { x: offsetX, y: offsetY, look }; });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("click", (event) => {
    const at = under(event);
    if (at && !dragged?.moved) open(at);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.3 : 1 / 1.3, fromX(event.offsetX), fromY(event.offsetY));
  }, { passive: false });
  box.addEventListener("click", ({ target }) => {
    const by = Number(target.closest("[data-zoom]")?.dataset.zoom);
    if (by) zoom(by);
  });
  dark.addEventListener("change", repaint);
  new ResizeObserver(repaint).observe(canvas);

  // `sides`: [{ name, index, listed }] of the list's model and the other; what a point says, and where it leads.
  async function draw(sides, words, follow, current) {
    const places = await Promise.all(sides.map(({ index }) => placesOf(index)));
    if (!current()) return;
    points = places.flatMap((place, side) => pointsOf(side, place, sides[side].listed));
    [describe, open] = [words, follow];
    const counts = sides.map((_, side) => points.filter((at) => at.side === side).length);
    const missing = sides.reduce((sum, { listed }) => sum + listed.length, 0) - points.length;
    const said = sides.map(({ name }, side) => `${counts[side].toLocaleString("en")} of ${name}`).join(" and ");
    canvas.setAttribute("aria-label", `Map of features: ${said}. Rows and cards list the same ones for the keyboard.`);
    box.querySelector(".legend").replaceChildren(
      ...sides.map(({ name, index }, side) => element("span", { class: `key model-${index % 4}`, "data-side": side }, name)),
      element("span", {}, `What fires together stands together. What the list leaves out is pale.${
        missing ? ` ${missing.toLocaleString("en")} features are silent or alone, and have no place.` : ""}`));
    point(null);
    repaint();
  }

  return { draw, box };
})();
