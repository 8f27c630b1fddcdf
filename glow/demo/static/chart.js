// Curves over steps as SVG.

const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [290, 52, 12, 12, 44];

export function svg(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Round numbers from low to high, about `count` of them.
export function ticks(low, high, count = 5) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((f) => f * power >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-6; k++) found.push(Number((k * step).toPrecision(10)));
  return found;
}

// Lines {points: [[step, value], ...], dashed, colour}, the last a number. Of many values the lowest 90 % decide the upper end: the
// first steps of a training are far off.
export function chart(title, lines) {
  const width = Math.min(480, innerWidth - 30); // letters stay legible on small screens
  const points = lines.flatMap((line) => line.points.filter(([, y]) => Number.isFinite(y)));
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y).sort((a, b) => a - b);
  const [x1, y0, y1] = [Math.max(...xs, 1), ys[0] ?? 0, ys[Math.floor((ys.length > 30 ? 0.9 : 1) * (ys.length - 1))] ?? 1];
  const pad = 0.06 * (y1 - y0 || 1);
  const [low, high] = [y0 - pad, y1 + pad];
  const x = (v) => LEFT + (v / x1) * (width - LEFT - RIGHT);
  const y = (v) => TOP + ((high - v) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${title} over steps` });
  for (const v of ticks(low, high)) {
    drawing.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }));
    drawing.append(svg("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, v));
  }
  for (const v of ticks(0, x1, 4)) drawing.append(svg("text", { x: x(v), y: HEIGHT - BOTTOM + 18, "text-anchor": v > 0.95 * x1 ? "end" : "middle" }, v));
  drawing.append(svg("text", { x: (LEFT + width) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "steps"));
  const clip = svg("svg", { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM });
  for (const line of lines) {
    const path = line.points.filter(([, v]) => Number.isFinite(v)).map(([a, b]) => `${(x(a) - LEFT).toFixed(1)},${(y(b) - TOP).toFixed(1)}`);
    clip.append(svg("polyline", { points: path.join(" "), class: `line colour-${line.colour}${line.dashed ? " dashed" : ""}` }));
    if (path.length === 1) {
      const [cx, cy] = path[0].split(",");
      clip.append(svg("circle", { cx, cy, r: 3, class: `dot colour-${line.colour}` }));
    }
  }
  drawing.append(clip);
  return drawing;
}
