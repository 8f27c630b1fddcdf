// How many bits a picture takes, where they are, and beside which other pictures.

import { svg, ticks } from "./chart.js";
import { anImage, element, imagePicker, layout, picture } from "./widgets.js";

const COLOURS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"]; // viridis: equal steps look equal, also to the colour-blind
const BARS = 40;

export default {
  title: "Score",
  about: "Bits are what a picture costs under the model: few where it is expected, many where it surprises. No class is given.",
  models: "images",
  show,
};

function show(page) {
  const { shape } = page.model;
  const [, height, width] = shape;
  const seen = picture("", "The picture as the model sees it");
  const map = element("canvas", { width, height, class: "map", role: "img", "aria-label": "Map of the bits" });
  const legend = element("div", { class: "legend" });
  const headline = element("p", { class: "headline" });
  const share = element("p", { class: "hint" });
  const typicality = element("section", {}, element("h3", {}, "Is it typical?"), element("p", {}), element("div", {}));
  const sizes = element("section", {}, element("h3", {}, "As a file, without loss"), element("div", {}));
  const picker = imagePicker(page, "image", "Image", anImage(page, 0), changed);
  let own = null; // bits/dim of the picture
  let others = null; // what is known of the images beside it

  const send = page.latest("score", (event) => {
    if (event.map) {
      own = event.bits_per_dim;
      seen.src = event.image;
      showMap(event);
      sizes.lastChild.replaceChildren(element("p", { class: "hint" }, "Computing ..."));
      showTypicality();
    } else {
      sizes.lastChild.replaceChildren(...files(event, shape.reduce((a, b) => a * b, 1)));
      sizes.dataset.done = picker.value();
    }
  });

  function changed() {
    delete sizes.dataset.done;
    send({ images: [picker.value()] });
  }

  function showMap({ map: rows, placed, bits_per_dim, dimensions }) {
    const values = rows.flat();
    const [low, high] = [Math.min(0, ...values), Math.max(...values)];
    const context = map.getContext("2d");
    const pixels = context.createImageData(width, height);
    values.forEach((v, i) => pixels.data.set([...colour((v - low) / (high - low || 1)), 255], 4 * i));
    context.putImageData(pixels, 0, 0);
    const bits = bits_per_dim * dimensions;
    headline.replaceChildren(element("strong", {}, `${bits_per_dim.toFixed(3)} bits/dim`), `: ${round(bits)} bits, or ${round(bits / 8)} bytes, for ${dimensions} values`);
    const sorted = values.toSorted((a, b) => b - a);
    const tenth = Math.max(1, Math.round(values.length / 10));
    const most = (100 * sorted.slice(0, tenth).reduce((a, b) => a + b, 0)) / bits;
    const says = placed ? `The costliest tenth of the pixels holds ${most.toFixed(0)} % of the bits.` : "This model does not say where its bits are.";
    share.textContent = says + (low < 0 ? " Values below zero are no mistake: a flow may count what it saves for one pixel at its neighbour." : "");
    map.setAttribute("aria-label", `Map of the bits, ${low.toFixed(1)} to ${high.toFixed(1)} a pixel. ${says}`);
    const scale = element("div", { class: "ramp" });
    const marks = ticks(low, high, 6).map((v) => {
      const mark = element("span", {}, String(v));
      mark.style.left = `${(100 * (v - low)) / (high - low || 1)}%`;
      return mark;
    });
    legend.replaceChildren(scale, element("div", { class: "marks" }, ...marks));
  }

  function showTypicality() {
    if (!others) return;
    const { bits, done, of, what, refused } = others;
    const [sentence, chart] = typicality.querySelectorAll("p, div");
    if (refused) sentence.textContent = `There is nothing to compare with: ${refused}.`;
    if (refused || !bits.length) return;
    const below = bits.filter((v) => v < own).length / bits.length;
    if (own !== null) sentence.textContent = done < of ? `Comparing with ${what}: ${done} of ${of} ...` : verdict(below, of, what);
    chart.replaceChildren(histogram(bits, own, what));
  }

  layout(
    page,
    [picker, element("p", { class: "hint" }, `Uploads are cropped to a square and made ${width} x ${height} pixels.`)],
    headline,
    element(
      "div",
      { class: "scored" },
      element("figure", {}, seen, element("figcaption", {}, "As the model sees it")),
      element("figure", {}, map, legend, element("figcaption", {}, "Bits of each pixel")),
    ),
    share,
    typicality,
    sizes,
  );
  changed();
  page.try(async () => {
    for await (const event of page.ask("typical")) {
      others = event;
      showTypicality();
    }
    typicality.dataset.done = true;
  });
}

// [red, green, blue] of a share from 0 to 1.
function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (COLOURS.length - 1);
  const i = Math.min(COLOURS.length - 2, Math.floor(at));
  const part = (text, k) => parseInt(text.slice(1 + 2 * k, 3 + 2 * k), 16);
  return [0, 1, 2].map((k) => Math.round(part(COLOURS[i], k) + (at - i) * (part(COLOURS[i + 1], k) - part(COLOURS[i], k))));
}

function verdict(below, of, what) {
  const percent = 100 * below;
  const share = below === 1 ? "all" : below === 0 ? "none" : `${percent.toFixed(percent < 1 || percent > 99 ? 1 : 0)} %`;
  const more = `It takes more bits than ${share} of ${of} ${what}`;
  if (below < 0.01) return `${more}: simpler than nearly all of them, so that it is no typical one either.`;
  if (below > 0.99) return `${more}: it surprises the model, and is hardly one of their kind.`;
  if (below < 0.05 || below > 0.95) return `${more}: unusual, but not unheard of.`;
  return `${more}: a typical one.`;
}

// Bits/dim of other images, and where the picture is among them.
function histogram(bits, own, what) {
  const [across, high, bottom] = [Math.min(640, innerWidth - 30), 190, 40];
  const sorted = bits.toSorted((a, b) => a - b);
  const range = sorted.at(-1) - sorted[0] || 1;
  const far = 1.5 * range; // a picture that is farther away stands at the edge
  const place = own === null ? sorted[0] : Math.min(sorted.at(-1) + far, Math.max(sorted[0] - far, own));
  const [least, most] = [Math.min(sorted[0], place) - 0.05 * range, Math.max(sorted.at(-1), place) + 0.05 * range];
  const x = (v) => 10 + ((v - least) / (most - least)) * (across - 20);
  const counts = new Array(BARS).fill(0);
  for (const v of bits) counts[Math.min(BARS - 1, Math.floor(((v - least) / (most - least)) * BARS))]++;
  const top = Math.max(...counts);
  const drawing = svg("svg", {
    viewBox: `0 0 ${across} ${high}`, class: "chart histogram", role: "img",
    "aria-label": `Histogram of the bits per dimension of ${bits.length} ${what}${own === null ? "" : `; the picture is at ${own.toFixed(3)}`}`,
  });
  counts.forEach((n, i) => {
    const [tall, wide] = [(n / top) * (high - bottom - 28), (across - 20) / BARS];
    drawing.append(svg("rect", { class: "bar", x: 10 + i * wide, y: high - bottom - tall, width: wide - 1, height: tall }));
  });
  for (const v of ticks(least, most, 5)) drawing.append(svg("text", { x: x(v), y: high - bottom + 16, "text-anchor": "middle" }, v));
  drawing.append(svg("text", { x: across / 2, y: high - 6, "text-anchor": "middle" }, `bits/dim of ${what}`));
  if (own === null) return drawing;
  const at = x(place);
  const anchor = at < 80 ? "start" : at > across - 80 ? "end" : "middle";
  drawing.append(svg("line", { class: "place", x1: at, x2: at, y1: 22, y2: high - bottom }));
  drawing.append(svg("text", { class: "own", x: at, y: 15, "text-anchor": anchor }, `this picture: ${own.toFixed(3)}${place === own ? "" : own > place ? " →" : " ←"}`));
  return drawing;
}

// Bytes, as figures and bars.
function files({ raw, png, alone, among, refused }, dimensions) {
  const rows = [
    ["As it is", raw, ""],
    ["PNG", png, "optimized by Pillow; 57 bytes of it or more are no pixels"],
    ...(refused ? [] : [["Our codec, alone", alone, "a file of this picture only, which is stored: there are no other pictures to borrow bits from"]]),
    ...(refused ? [] : [["Our codec, among many", among, "what the picture adds to a large file: what the model promises above, nearly"]]),
  ];
  const largest = Math.max(...rows.map(([, bytes]) => bytes));
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...["File", "Bytes", "bits/dim"].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...rows.map(([name, bytes, hint]) => {
      const bar = element("div", { class: "size" });
      bar.style.width = `${(100 * bytes) / largest}%`;
      const figures = [round(bytes), ((8 * bytes) / dimensions).toFixed(2)];
      return element("tr", {}, element("th", { scope: "row" }, name, bar, element("span", { class: "hint" }, hint)), ...figures.map((v) => element("td", {}, v)));
    })),
  );
  return [table, ...(refused ? [element("p", { class: "refused" }, `Our codec cannot take this model: ${refused}.`)] : [])];
}

function round(value) {
  return value.toFixed(value < 100 && !Number.isInteger(value) ? 1 : 0);
}
