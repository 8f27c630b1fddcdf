// Flows of points: their density, and how a grid and draws of the base become data, layer by layer. A flow can be trained on
// points that the visitor draws.

import { Plot } from "./plot.js";
import { button, choice, element, layout, number, picture, slider } from "./widgets.js";

const HERE = "here"; // instead of a model's name: the flow that is trained on the page
const BOX = [-4, 4, -4, 4];
const MOST = 2000;
const BRUSH = { points: 4, spread: 0.12 }; // dropped at once
const TRAILS = 12;
const OWN = "own";
const TOYS = [
  ["two_moons", "Two moons"], ["eight_gaussians", "Eight Gaussians"], ["pinwheel", "Pinwheel"], ["checkerboard", "Checkerboard"],
  ["rings", "Rings"], ["two_spirals", "Two spirals"], ["banana", "Banana"], [OWN, "Your own drawing"],
];
const FAMILIES = [["realnvp", "RealNVP: affine couplings"], ["nsf", "NSF: splines"], ["maf", "MAF: autoregressive"]];

export default {
  title: "In the plane",
  about: "A flow bends the plane until a round Gaussian has become the data. Draw points, train a flow on them, and move the depth.",
  models: null,
  show,
};

// Points in an address: two digits of base 36 for each coordinate.
const DIGITS = 36 ** 2 - 1;
const code = (points) => points.flat().map((v) => Math.round(((v + 4) / 8) * DIGITS).toString(36).padStart(2, "0")).join("");
const decode = (text) => (text.match(/[0-9a-z]{4}/g) ?? []).map((p) => [p.slice(0, 2), p.slice(2)].map((v) => (parseInt(v, 36) / DIGITS) * 8 - 4));

const clip = (v) => Math.min(4, Math.max(-4, v));
const between = (a, b, share) => a.map((v, axis) => (v + share * (b[axis] - v)) / 1000); // the server sends thousandths
const steps = (event) => `${event.steps.toLocaleString("en")} steps`;

async function show(page) {
  const { models, first } = await page.once("models");
  const flows = [[HERE, "Trained on this page"], ...models.filter((m) => m.kind === "points").map((m) => [m.name, m.name])];
  flows.sort(([a], [b]) => (b === first) - (a === first));
  const model = page.get("model", flows[0][0]);
  let points = [];
  let seen = null; // the last event of the server
  let training = null;
  const cursor = { at: [0, 0], shown: false }; // the keyboard's

  const density = picture("", "The density of the flow");
  const drawing = new Plot(density, "Points of the data over the density of the flow", paintPoints);
  const bending = new Plot(null, "Draws of the base and a grid of latents, at the depth of the slider", paintDepth);
  const [progress, peak, place] = ["p", "figcaption", "figcaption"].map((tag) => element(tag));
  const left = element("figure", {}, element("h3", {}, "Density"), drawing.root);
  const right = element(
    "figure",
    {},
    element("h3", {}, "From base to data"),
    bending.root,
    slider(page, "depth", "Depth: 0 is the base, 1 the data", { min: 0, max: 1, step: 0.01, value: 1 }, bending.paint),
    place,
  );
  const flow = choice(page, "model", "Flow", flows, () => {
    training?.abort();
    page.fail("");
    show(page);
  });
  const watch = () => [drawing, bending].forEach((plot) => plot.watch(page.signal));
  if (model !== HERE) {
    left.append(peak);
    const hint = element("p", { class: "hint" }, "To draw points and train a flow on them, choose the flow that is trained on this page.");
    layout(page, [flow, hint], element("div", { class: "planes" }, left, right));
    watch();
    return page.try(async () => receive(await page.once("plane", { model })));
  }

  const toggle = button("", () => (training ? training.abort() : learn(page.get("seconds", 10))), { class: "main" });
  const toy = choice(page, "toy", "Points", TOYS, begin);
  left.append(element("div", { class: "row" }, toggle, button("Clear", clear)), progress, peak);
  layout(
    page,
    [
      flow,
      toy,
      choice(page, "family", "Family", FAMILIES, () => learn(0)),
      slider(page, "blur", "Blur of each point", { min: 0.02, max: 0.5, step: 0.02, value: 0.1 }, () => {}),
      number(page, "seconds", "Seconds of training", { min: 1, max: 30, value: 10 }, label),
      number(page, "seed", "Seed", { max: 2 ** 31 - 1, value: 0 }, () => learn(0)),
      element("p", { class: "hint" }, "Draw into the density: with the mouse, with a finger, or with the arrow keys and the space bar."),
    ],
    element("div", { class: "planes" }, left, right),
  );
  drawable();
  watch();
  label();
  points = decode(page.get("points", ""));
  return points.length ? learn(0) : begin();

  function label() {
    toggle.textContent = training ? "Stop" : `Train for ${page.get("seconds", 10)} s`;
  }

  // The points of a toy, and a flow that has yet to learn them.
  async function begin() {
    const chosen = page.get("toy", TOYS[0][0]);
    if (chosen === OWN) return clear();
    page.set({ points: null });
    const found = await page.try(() => page.once("toy", { toy: chosen }));
    if (!found) return;
    ({ points } = found);
    await learn(0);
  }

  function clear() {
    training?.abort();
    points = [];
    keep();
    progress.textContent = "Draw some points, then train.";
    drawing.paint();
  }

  // Writes the visitor's points into the address.
  function keep() {
    page.set({ toy: OWN, points: points.length ? code(points) : null });
    toy.querySelector("select").value = OWN;
  }

  // Trains, and shows what comes; 0 seconds show the flow as it is before.
  async function learn(seconds) {
    training?.abort();
    page.fail(points.length ? "" : "Draw some points first.");
    if (!points.length) return;
    const mine = new AbortController();
    training = seconds ? mine : null;
    label();
    await page.try(async () => {
      const settings = { points, family: page.get("family", FAMILIES[0][0]), blur: page.get("blur", 0.1), seed: page.get("seed", 0), seconds };
      for await (const event of page.ask("learn", settings, mine.signal)) {
        receive(event);
        const now = event.left ? `${Math.ceil(event.left)} s left, ${steps(event)}` : seconds ? `Trained ${steps(event)}` : "Untrained";
        progress.setAttribute("aria-live", event.left ? "off" : "polite"); // not read out several times a second
        progress.textContent = `${now}: ${event.nats.toFixed(2)} nats a point; ${event.best.toFixed(2)} would be perfect.`;
      }
    });
    if (mine.signal.aborted && training === mine && seen) progress.textContent = `Stopped after ${steps(seen)}: ${seen.nats.toFixed(2)} nats a point.`;
    if (training === mine) training = null;
    label();
  }

  function receive(event) {
    if (!event) return; // another request took its place
    seen = event;
    points = event.points ?? points;
    density.src = event.density;
    peak.textContent = `Yellow is the highest density, ${event.peak.toPrecision(2)}. Dots are ${event.points ? "data" : "the points to learn"}.`;
    left.dataset.event = JSON.stringify({ steps: event.steps, left: event.left, nats: event.nats });
    drawing.paint();
    bending.paint();
  }

  function paintPoints(plot) {
    plot.axes(seen?.box ?? BOX);
    for (const point of points) plot.dot(point, 1.5, "#fff", "rgb(0 0 0 / 50%)");
    if (!cursor.shown) return;
    const [x, y] = cursor.at;
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      plot.line([[x - 0.3, y], [x + 0.3, y]], colour, width);
      plot.line([[x, y - 0.3], [x, y + 0.3]], colour, width);
    }
  }

  function paintDepth(plot) {
    if (!seen) return;
    const { followed, lines, parts } = seen;
    const depth = Math.min(1, Math.max(0, page.get("depth", 1))) * parts.length;
    const k = Math.min(parts.length - 1, Math.floor(depth));
    plot.axes(seen.around);
    lines[k].forEach((line, i) => {
      const bent = line.map((point, j) => between(point, lines[k + 1][i][j], depth - k));
      plot.line(bent, i < lines[k].length / 2 ? "#3f86cf" : "#d9792f", 0.9);
    });
    const moved = followed[k].map((point, i) => between(point, followed[k + 1][i], depth - k));
    const colours = followed[0].map(([x, y]) => `hsl(${(Math.atan2(y, x) * 180) / Math.PI} 75% 48%)`);
    for (let i = 0; i < TRAILS; i++) {
      const way = followed.slice(0, k + 1).map((places) => between(places[i], places[i], 0));
      plot.line([...way, moved[i]], colours[i], 1);
    }
    moved.forEach((point, i) => plot.dot(point, i < TRAILS ? 4 : 2, colours[i], i < TRAILS ? "#fff" : null));
    const last = parts.length;
    const where = depth === 0 ? `Before the first of ${last} layers: the base.` : depth < last ? `In layer ${k + 1} of ${last}: ${parts[k]}.` : `After all ${last} layers: the data.`;
    place.textContent = `${where} Points keep the colour of their direction in the base; ${TRAILS} leave a trail.`;
  }

  // Has the pointer and the keyboard put points into the density.
  function drawable() {
    const { canvas } = drawing;
    const { at } = cursor;
    let last = null;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("tabindex", "0");
    canvas.setAttribute("aria-label", "Points to learn, over the density. The arrow keys move a cursor, the space bar puts points there.");
    const drop = (where) => {
      for (let i = 0; i < BRUSH.points && points.length < MOST; i++) {
        const [radius, angle] = [BRUSH.spread * Math.sqrt(-2 * Math.log(1 - Math.random())), 2 * Math.PI * Math.random()];
        points.push([clip(where[0] + radius * Math.cos(angle)), clip(where[1] + radius * Math.sin(angle))]);
      }
      page.say(points.length < MOST ? `${points.length} points.` : `${MOST} points are the most.`);
      drawing.paint();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      cursor.shown = false;
      drop((last = drawing.point(event)));
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = drawing.point(event);
      if (last && Math.hypot(here[0] - last[0], here[1] - last[1]) > BRUSH.spread) drop((last = here));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        last = null;
        keep();
      });
    }
    canvas.addEventListener("keydown", (event) => {
      cursor.shown = true;
      const move = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] }[event.key];
      if (move) move.forEach((v, axis) => (at[axis] = clip(at[axis] + v)));
      else if (event.key === " ") drop(at);
      else return;
      event.preventDefault();
      if (event.key === " ") keep();
      else page.say(`At ${at.map((v) => v.toFixed(1)).join(", ")}.`);
      drawing.paint();
    });
    for (const change of ["focus", "blur"]) {
      canvas.addEventListener(change, () => {
        cursor.shown = canvas.matches(":focus-visible");
        drawing.paint();
      });
    }
  }
}
