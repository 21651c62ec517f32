// Data of the explorer. A page from the file system may not fetch, so each file is a script that calls explorer.put;
// what it puts is packed as packing.py says.
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
        unpacked(given.get(name)).then(resolve, () => reject(new Error(`data/${name}.js is damaged: make the report again.`)));
        given.delete(name);
      };
      script.onerror = () => reject(new Error(`data/${name}.js is missing: make the report again.`));
      document.head.append(script);
    });
  }

  function load(name, read = (value) => value) {
    if (!loading.has(name)) {
      const file = inserted(name).then(read);
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
  async function unpacked(base64) {
    const packed = new ReadableStream({ start: (given) => { given.enqueue(bytes(base64)); given.close(); } });
    const buffer = await new Response(packed.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
    const first = 4, length = new DataView(buffer).getUint32(0, true), arrays = first + length;
    return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, first, length)), (key, value) => {
      for (const [type, Type] of Object.entries(TYPES)) {
        if (!value?.[type]) continue;
        const [begin, n] = value[type];
        return new Type(buffer.slice(arrays + begin, arrays + begin + n * Type.BYTES_PER_ELEMENT));
      }
      return value;
    });
  }

  // Numbers of seven bits to a byte, the lowest first; the highest bit of a byte says that the number goes on.
  function septets(packed) {
    const numbers = [];
    let value = 0, unit = 1;
    for (const byte of packed) {
      value += (byte & 127) * unit;
      unit *= 128;
      if (byte > 127) continue;
      numbers.push(value);
      [value, unit] = [0, 1];
    }
    return numbers;
  }

  // The value of each 16-bit code, as packing.py defines it.
  function valuesOf({ lo, hi, log }) {
    const values = new Float64Array(65536), span = hi - lo;
    for (let code = 0; code < 65535; code++)
      values[code] = log ? (code ? Math.exp(lo + span * (code - 1) / 65533) : 0) : lo + span * code / 65534;
    values[65535] = NaN;
    return values;
  }

  const column = (place, name) => load(`columns/${place}-${name}`, (file) => {
    if (!("lo" in file)) return file;
    const values = valuesOf(file), step = (file.hi - file.lo) / 65534;
    const within = (bound) => (file.log ? Math.abs(bound) * step : step);  // what quantising may have moved a value by
    return { codes: file.codes, at: (row) => values[file.codes[row]], within };
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
    const { chunk } = manifest(), place = feature % chunk;
    const file = await load(`features/${modelIndex}-${layer}-${Math.floor(feature / chunk)}`);
    const record = file.features[place];
    const contexts = file.contexts ? await contextsOf(file.contexts, place, record.scale, modelIndex) : [];
    return { ...record, contexts };
  }

  const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
  // Where the rows of a feature begin and end, of columns with `count` rows for each.
  function rangeOf(count, place) {
    const first = total(count.subarray(0, place));
    return [first, first + (count[place] ?? 0)];
  }

  async function contextsOf(columns, place, scale, modelIndex) {
    const [first, end] = rangeOf(columns.count, place);
    const { tokenAt, documentOf } = await sheetsOf(modelIndex, columns.sheet.subarray(first, end));
    let at = total(columns.length.subarray(0, first));
    const contexts = [];
    for (let i = first; i < end; i++) {
      const [quantile, sheet, start, peak] = ["quantile", "sheet", "start", "peak"].map((name) => columns[name][i]);
      const steps = columns.activations.subarray(at, at += columns.length[i]);
      const tokens = Array.from(steps, (step, j) => ({ text: tokenAt(sheet, start + j), share: step / 255 }));
      const value = columns.hundredths[i] / 100;
      contexts.push({ quantile, value, document: documentOf(sheet), position: start + peak, peak, scale, tokens });
    }
    return contexts;
  }

  // What these sheets have at a place, and of which document they are; see sheets.py.
  async function sheetsOf(modelIndex, sheets) {
    const { number, width, sheets: perFile } = manifest().models[modelIndex].text;
    const fileOf = (sheet) => Math.floor(sheet / perFile), needed = [...new Set(Array.from(sheets, fileOf))];
    const files = await Promise.all(needed.map((file) => load(`text/${number}-${file}`)));
    const found = new Map(needed.map((file, i) => [file, files[i]])), within = (sheet) => sheet % perFile;
    const tokenAt = (sheet, at) => {
      const { texts, tokens } = found.get(fileOf(sheet));
      return texts[tokens[within(sheet) * width + at]];
    };
    return { tokenAt, documentOf: (sheet) => found.get(fileOf(sheet)).documents[within(sheet)] };
  }

  // Examples of a feature and its partner in a model, with what the other of the two does there; see overlays.py.
  async function overlay(modelIndex, layer, feature, other) {
    const { chunk, overlaid } = manifest(), place = `${modelIndex}-${layer}`;
    if (!overlaid.includes(place)) return [];
    const file = await load(`overlay/${place}-${Math.floor(feature / chunk)}`);
    const columns = file[other], [first, end] = columns ? rangeOf(columns.count, feature % chunk) : [0, 0];
    let next = total(columns?.fires.subarray(0, first) ?? []);
    return Array.from({ length: end - first }, (_, i) => ({
      rank: columns.rank[first + i], ofPartner: columns.partner[first + i] === 1,
      fires: Array.from({ length: columns.fires[first + i] }, () => [columns.at[next], columns.values[next++]]),
    }));
  }

  // The neighbour of a feature in the kept layer "before" or "after" its own, null where there is no such layer; see flows.py.
  async function flow(modelIndex, layer, feature, way) {
    if (!manifest().flows.includes(`${modelIndex}-${layer}`)) return null;
    const side = (await load(`flow/${modelIndex}-${layer}`, (file) => Object.fromEntries(
      Object.entries(file).map(([name, given]) => [name, given && {
        ...given, r: numbersOf(given.r), cosine: numbersOf(given.cosine) }]))))[way];
    return side && { layer: side.layer, feature: side.feature[feature], counts: side.counts[feature] === 1,
      r: side.r(feature), cosine: side.cosine(feature) };
  }
  function numbersOf(given) {
    const values = valuesOf(given);
    return (i) => values[given.codes[i]];
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
        ((start <= least || asked(firsts[i])) && !(starts[i + 1] <= least) ? [load(`words/${modelIndex}-${i}`, listed)] : []));
      const rows = new Uint8Array(found.length);
      for (const file of await Promise.all(files))
        for (const [other, firing, showing] of file)
          if (asked(other))
            for (const listed of fires ? [firing] : [firing, showing]) for (const row of listed) rows[row] = found[row];
      found = rows;
    }
    return found;
  }

  // [word, rows that fire on it, rows that only show it] of each word of a file.
  function listed({ words, counts, gaps }) {
    const rows = Uint32Array.from(septets(gaps));
    let at = 0;
    const next = (n) => {
      const list = rows.subarray(at, at += n);
      for (let i = 1; i < n; i++) list[i] += list[i - 1];
      return list;
    };
    return words.map((word, i) => [word, next(counts[2 * i]), next(counts[2 * i + 1])]);
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
    if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US").replace("-", "−");
    if (!percent) return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
    if (value === 0) return "0%";
    const share = value * 100 >= 1 ? (value * 100).toFixed(1) : String(Number((value * 100).toPrecision(2)));
    return `${share.replace("-", "−")}%`;
  }

  return { put, load, column, manifest, rowOf, placeOf, details, overlay, flow, search, element, token, shown, number };
})();
