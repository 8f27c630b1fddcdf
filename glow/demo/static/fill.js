// A picture from which the visitor takes pixels, and what the model fills in.

import { anImage, button, choice, element, imagePicker, layout, number, picture, slider } from "./widgets.js";

const COMPLETIONS = 4;
const SIZE = 560; // of the canvas, pixels, roughly
const KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export default {
  title: "Fill in",
  about: "Paint over pixels: the model draws what could have been there, several times, given all others.",
  models: "images",
  show,
};

function show(page) {
  const [, height, width] = page.model.shape;
  const cell = Math.max(1, Math.floor(SIZE / Math.max(height, width)));
  const missing = new Uint8Array(height * width);
  const brush = { row: Math.floor(height / 2), column: Math.floor(width / 2), shown: false };
  const image = new Image();
  let running = null; // ends the request under way

  const help = element("p", { class: "hint", id: "fill-help" }, "Drag over the picture. Or by keyboard: arrow keys move the brush, space paints or takes back.");
  const canvas = element("canvas", {
    width: width * cell, height: height * cell, tabindex: 0, class: "paint", role: "application",
    "aria-label": "The picture to paint on", "aria-describedby": "fill-help",
  });
  const ways = Array.from({ length: COMPLETIONS }, (_, i) => element("div", { class: "way" }, picture("", `Completion ${i + 1}`)));
  const bar = element("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const words = element("span"); // changes too often to be read aloud
  const result = element("span", { role: "status" });
  const start = button("Fill in", fill, { class: "main" });
  const stop = button("Stop", () => end("Stopped: these are the completions so far."), { disabled: true });
  const picker = imagePicker(page, "image", "Image", anImage(page, 0), load);

  function load() {
    end();
    clearWays();
    return page.try(async () => {
      const found = await page.once("images", { images: [picker.value()], control: "painted" });
      if (!found) return;
      image.src = found.images[0];
      await image.decode();
      draw();
    });
  }

  function clearWays() {
    for (const way of ways) {
      way.firstChild.removeAttribute("src");
      way.classList.remove("there");
    }
    bar.value = 0;
    words.textContent = result.textContent = "";
  }

  // The picture, the missing pixels and the brush.
  function draw() {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (image.complete && image.naturalWidth) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    for (let i = 0; i < missing.length; i++) {
      if (!missing[i]) continue;
      const [x, y] = [(i % width) * cell, Math.floor(i / width) * cell];
      context.fillStyle = (i + Math.floor(i / width) * (1 - (width % 2))) % 2 ? "#f59638" : "#ffa24d"; // a checkerboard, of no grey
      context.fillRect(x, y, cell, cell);
    }
    if (!brush.shown) return;
    const [top, left, rows, columns] = footprint();
    const box = [left * cell + 1, top * cell + 1, columns * cell - 2, rows * cell - 2];
    for (const [colour, thick] of [["#000", 4], ["#fff", 2]]) Object.assign(context, { strokeStyle: colour, lineWidth: thick }).strokeRect(...box);
  }

  // The pixels under the brush: top, left, height, width.
  function footprint() {
    const size = page.get("brush", 3);
    const [top, left] = [brush.row - Math.floor((size - 1) / 2), brush.column - Math.floor((size - 1) / 2)];
    const [bottom, right] = [Math.min(height, top + size), Math.min(width, left + size)];
    return [Math.max(0, top), Math.max(0, left), bottom - Math.max(0, top), right - Math.max(0, left)];
  }

  function paint(value) {
    const [top, left, rows, columns] = footprint();
    for (let r = top; r < top + rows; r++) missing.fill(value, r * width + left, r * width + left + columns);
    draw();
  }

  const erasing = () => page.get("tool", "paint") === "erase";
  const painted = () => page.set({ mask: write(missing) });

  function follow(event) {
    const box = canvas.getBoundingClientRect();
    const at = (v, from, size, n) => Math.min(n - 1, Math.max(0, Math.floor(((v - from) / size) * n)));
    brush.row = at(event.clientY, box.top, box.height, height);
    brush.column = at(event.clientX, box.left, box.width, width);
    brush.shown = true;
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    end();
    follow(event);
    paint(erasing() ? 0 : 1);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = [brush.row, brush.column];
    follow(event);
    if (!canvas.hasPointerCapture(event.pointerId)) return draw();
    const [row, column] = [brush.row, brush.column]; // fast moves skip pixels: paint all on the line between
    const steps = Math.max(1, Math.abs(row - before[0]), Math.abs(column - before[1]));
    for (let i = 1; i <= steps; i++) {
      brush.row = Math.round(before[0] + ((row - before[0]) * i) / steps);
      brush.column = Math.round(before[1] + ((column - before[1]) * i) / steps);
      paint(erasing() ? 0 : 1);
    }
  });
  canvas.addEventListener("pointerup", painted);
  canvas.addEventListener("pointerleave", () => {
    brush.shown = document.activeElement === canvas;
    draw();
  });
  canvas.addEventListener("focus", () => {
    brush.shown = true;
    draw();
  });
  canvas.addEventListener("blur", () => {
    brush.shown = false;
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const moved = KEYS[event.key];
    if (!moved && event.key !== " ") return;
    event.preventDefault();
    if (moved) {
      brush.row = Math.min(height - 1, Math.max(0, brush.row + moved[0]));
      brush.column = Math.min(width - 1, Math.max(0, brush.column + moved[1]));
      draw();
    } else {
      end();
      paint(missing[brush.row * width + brush.column] ? 0 : 1);
      painted();
    }
    page.say(`Row ${brush.row + 1}, column ${brush.column + 1}: ${missing[brush.row * width + brush.column] ? "missing" : "seen"}`);
  });

  function cover(value, from = 0) {
    end();
    missing.fill(0);
    missing.fill(value, from);
    painted();
    draw();
  }

  async function fill() {
    end();
    clearWays();
    const own = (running = new AbortController());
    start.disabled = true;
    stop.disabled = false;
    words.textContent = "Starting ...";
    page.fail("");
    const label = page.get("label", "");
    const settings = {
      images: [picker.value()], mask: runs(missing), n: COMPLETIONS, seed: page.get("seed", 0), temperature: page.get("temperature", 1),
      steps: page.get("steps", 300), label: label === "" ? null : label === "none" ? label : Number(label),
    };
    let exact = false;
    await page.try(async () => {
      for await (const event of page.ask("fill", settings, own.signal)) {
        if (running !== own) return;
        if (event.mask) {
          exact = event.exact;
          read(missing, event.mask); // a model that goes pixel by pixel takes more
          draw();
        }
        if (!event.images) continue;
        event.images.forEach((source, i) => (ways[i].firstChild.src = source));
        for (const way of ways) way.classList.add("there");
        bar.value = event.share;
        words.textContent = told(event.share, exact, settings.steps);
      }
      if (running === own) end("Done.");
    });
    if (running === own) end();
  }

  function end(text = "") {
    running?.abort();
    if (running) [words.textContent, result.textContent] = ["", text];
    running = null;
    start.disabled = false;
    stop.disabled = true;
  }

  const { classes, latents } = page.model;
  const labels = Array.from({ length: classes }, (_, k) => [String(k), `Class ${k}`]);
  layout(
    page,
    [
      element(
        "fieldset",
        { class: "tools" },
        element("legend", {}, "Missing pixels"),
        choice(page, "tool", "The brush", [["", "Takes pixels out"], ["erase", "Brings pixels back"]], () => {}),
        slider(page, "brush", "Size of the brush", { min: 1, max: Math.max(3, Math.floor(height / 4)), step: 1, value: 3 }, draw),
        element("div", { class: "row" }, button("Lower half", () => cover(1, Math.floor(height / 2) * width)), button("Clear", () => cover(0))),
      ),
      picker,
      ...(classes ? [choice(page, "label", "Class", [["", "Its own, if known"], ...labels, ["none", "No class"]], () => end())] : []),
      ...(latents ? [choice(page, "steps", "Steps", [["300", "300"], ["100", "100: quick, less exact"], ["1000", "1000: slow, more exact"]], () => end())] : []),
      slider(page, "temperature", "Temperature", { min: 0.1, max: 1.5, step: 0.05, value: 1 }, () => end()),
      number(page, "seed", "Seed", { max: 2 ** 31 - 1, value: 0 }, () => end()),
    ],
    element(
      "div",
      { class: "filling" },
      element("div", {}, canvas, element("div", { class: "row" }, start, stop), help),
      element("div", {}, element("div", { class: "ways" }, ...ways), bar, element("p", { class: "hint" }, words, result)),
    ),
  );
  const given = page.get("mask");
  if (given === null || !read(missing, given.split(".").map((n) => parseInt(n, 36)))) missing.fill(1, Math.floor(height / 2) * width);
  draw();
  return load().then(() => given !== null && fill()); // a link that says what is missing shows how it is filled in
}

function told(share, exact, steps) {
  if (exact) return `${Math.round(100 * share)} %: pixel by pixel, exactly.`;
  const stage = share <= 0.25 ? "large shapes first" : "details, while the seen pixels stay as they are";
  return `Step ${Math.round(share * steps)} of ${steps}: ${stage}.`;
}

// Lengths of runs, by turns seen and missing; the first one seen.
function runs(missing) {
  const found = [0];
  missing.forEach((value, i) => {
    if (value !== (found.length - 1) % 2) found.push(0);
    found[found.length - 1]++;
  });
  return found;
}

function read(missing, lengths) {
  if (lengths.reduce((a, b) => a + b, 0) !== missing.length) return false;
  let from = 0;
  lengths.forEach((n, i) => missing.fill(i % 2, from, (from += n)));
  return true;
}

// The runs as a word for the address.
function write(missing) {
  return runs(missing).map((n) => n.toString(36)).join(".");
}
