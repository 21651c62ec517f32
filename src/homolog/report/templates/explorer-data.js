// Data of the explorer. A page from the file system may not fetch, so each file is a script that calls explorer.put.
const explorer = (() => {
  "use strict";
  const KEPT = 32;  // files of details in memory
  const given = new Map(), loading = new Map();

  const put = (name, value) => { given.set(name, value); };

  function inserted(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => {
        script.remove();
        if (given.has(name)) resolve(given.get(name));
        else reject(new Error(`data/${name}.js is damaged: make the report again.`));
        given.delete(name);
      };
      script.onerror = () => reject(new Error(`data/${name}.js is missing: make the report again.`));
      document.head.append(script);
    });
  }

  function load(name, unpacked = (value) => value) {
    if (!loading.has(name)) {
      const file = inserted(name).then(unpacked);
      file.catch(() => loading.delete(name));
      loading.set(name, file);
      const details = [...loading.keys()].filter((key) => /^(features|overlay|flow)\//.test(key));
      for (const key of details.slice(0, -KEPT)) loading.delete(key);
    }
    return loading.get(name);
  }

  function bytes(base64) {
    const text = atob(base64), out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out;
  }
  const TYPES = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array };
  const unpacked = ({ type, codes }) => new TYPES[type](bytes(codes).buffer);

  // The value of each 16-bit code, as packing.py defines it.
  function valuesOf({ lo, hi, log }) {
    const values = new Float64Array(65536), span = hi - lo;
    for (let code = 0; code < 65535; code++)
      values[code] = log ? (code ? Math.exp(lo + span * (code - 1) / 65533) : 0) : lo + span * code / 65534;
    values[65535] = NaN;
    return values;
  }

  const column = (place, name) => load(`columns/${place}-${name}`, (file) => {
    const codes = unpacked(file);
    if (!("lo" in file)) return { codes, words: file.words };
    const values = valuesOf(file), step = (file.hi - file.lo) / 65534;
    const within = (bound) => (file.log ? Math.abs(bound) * step : step);  // what quantising may have moved a value by
    return { codes, at: (row) => values[codes[row]], within };
  });

  const manifest = given.get.bind(given, "manifest");

  // A row is a number in all features of a model, layer after layer.
  const rowOf = (model, layer, feature) => model.sizes.slice(0, layer).reduce((sum, size) => sum + size, 0) + feature;
  function placeOf(model, row) {
    let layer = 0;
    while (row >= model.sizes[layer]) row -= model.sizes[layer++];
    return { layer, feature: row };
  }

  async function details(modelIndex, layer, feature) {
    const { chunk } = manifest();
    const file = await load(`features/${modelIndex}-${layer}-${Math.floor(feature / chunk)}`, (value) => ({
      ...value, tokens: value.tokens && unpacked(value.tokens), values: value.values && unpacked(value.values),
    }));
    const record = file.features[feature % chunk];
    return { ...record, contexts: contextsOf(file, feature % chunk) };
  }

  function contextsOf(file, place) {
    let at = 0;
    for (const { contexts = [] } of file.features.slice(0, place)) for (const context of contexts) at += context[5];
    const { contexts = [], scale } = file.features[place];
    return contexts.map(([quantile, value, document, position, start, length]) => {
      const tokens = [];
      for (let i = at; i < at + length; i++)
        tokens.push({ text: file.texts[file.tokens[i]], share: file.values[i] / 255 });
      at += length;
      return { quantile, value, document, position, peak: position - start, scale, tokens };
    });
  }

  // Examples of a feature and its partner in a model, with what the other of the two does there; see overlays.py.
  async function overlay(modelIndex, layer, feature, other) {
    const { chunk, overlaid } = manifest(), place = `${modelIndex}-${layer}`;
    if (!overlaid.includes(place)) return [];
    const file = await load(`overlay/${place}-${Math.floor(feature / chunk)}`);
    return (file[feature]?.[other] ?? []).map(([rank, ofPartner, ...flat]) => ({
      rank, ofPartner: Boolean(ofPartner),
      fires: flat.flatMap((at, i) => (i % 2 ? [] : [[at, flat[i + 1]]])),
    }));
  }

  // The neighbour of a feature in the kept layer "before" or "after" its own, null where there is no such layer; see flows.py.
  async function flow(modelIndex, layer, feature, way) {
    if (!manifest().flows.includes(`${modelIndex}-${layer}`)) return null;
    const side = (await load(`flow/${modelIndex}-${layer}`, (file) => Object.fromEntries(
      Object.entries(file).map(([name, given]) => [name, given && {
        layer: given.layer, feature: unpacked(given.feature), counts: unpacked(given.counts),
        r: numbersOf(given.r), cosine: numbersOf(given.cosine) }]))))[way];
    return side && { layer: side.layer, feature: side.feature[feature], counts: side.counts[feature] === 1,
      r: side.r(feature), cosine: side.cosine(feature) };
  }
  function numbersOf(given) {
    const codes = unpacked(given), values = valuesOf(given);
    return (i) => values[codes[i]];
  }

  // Rows of a model that show the words of a text: 1 in a Uint8Array, or null for a text without words; see words.py.
  const ALONE = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff";
  const WORD = new RegExp(`[${ALONE}]|(?:(?![${ALONE}])[\\p{L}\\p{N}_])+`, "gu");
  const hex = (text) => [...text].map((letter) => letter.codePointAt(0).toString(16).padStart(6, "0")).join("");
  async function search(modelIndex, text, fires) {
    const words = [...new Set(text.toLowerCase().match(WORD) ?? [])];
    if (!words.length) return null;
    const { sizes, words: firsts } = manifest().models[modelIndex];
    const starts = firsts.map(hex);  // words stand in the order of characters, not of JavaScript's halves of them
    let found = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0)).fill(1);
    for (const word of words) {
      const least = hex(word), alone = least.length === 6;
      const asked = (other) => (alone ? other === word : other.startsWith(word));
      const files = starts.flatMap((start, i) =>
        ((start <= least || asked(firsts[i])) && !(starts[i + 1] <= least) ? [load(`words/${modelIndex}-${i}`)] : []));
      const rows = new Uint8Array(found.length);
      for (const file of await Promise.all(files))
        for (const [other, firing, showing] of file)
          if (asked(other))
            for (const row of fires ? firing : [...firing, ...showing]) rows[row] = found[row];
      found = rows;
    }
    return found;
  }

  // An element. Strings become text nodes: nothing from a corpus or a model is ever read as markup.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElementNS(attributes.xmlns ?? "http://www.w3.org/1999/xhtml", tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") for (const [key, item] of Object.entries(value)) made.style.setProperty(key, item);
      else if (name !== "xmlns" && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  const shown = (text) => text.replaceAll("\n", "↵").replaceAll("\r", "").replaceAll("\t", "⇥");
  const token = (text) => element("code", { class: "token" }, shown(text));

  function number(value, { digits = 2, percent = false } = {}) {
    if (value === undefined || value === null || Number.isNaN(value)) return "–";
    if (!percent) return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
    if (value === 0) return "0%";
    return `${value * 100 >= 1 ? (value * 100).toFixed(1) : Number((value * 100).toPrecision(2))}%`;
  }

  return { put, load, column, manifest, rowOf, placeOf, details, overlay, flow, search, element, token, shown, number, unpacked };
})();
