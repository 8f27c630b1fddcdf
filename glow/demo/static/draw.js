// A grid of samples that follows its settings.

import { address } from "./page.js";
import { button, choice, element, layout, number, picture, slider } from "./widgets.js";

const ELSEWHERE = { between: "Between", edit: "Edit", scales: "Scales", fill: "Fill in", score: "Score" };

export default {
  title: "Draw",
  about: "Samples of the model. Temperature scales all latents: low is typical, high is varied. The same seed keeps the same latents.",
  models: "images",
  show,
};

function show(page) {
  const grid = element("div", { class: "grid", role: "group", "aria-label": "Samples" });
  const taken = element("p", { class: "taken" });
  const classes = page.model.classes;
  const settings = () => ({
    temperature: page.get("temperature", 0.7), seed: page.get("seed", 0), guidance: classes ? page.get("guidance", 0) : 0,
    n: page.get("n", 36), label: labelOf(page.get("label", "")),
  });
  const send = page.latest("draw", (drawn, sent) => {
    fit(grid, drawn.images.length, (i) => take(i));
    drawn.images.forEach((source, i) => {
      const label = drawn.labels ? (drawn.labels[i] < 0 ? ", no class" : `, class ${drawn.labels[i]}`) : "";
      grid.children[i].setAttribute("aria-label", `Sample ${i}${label}`);
      grid.children[i].firstChild.src = source;
    });
    grid.dataset.settings = JSON.stringify(sent);
    const faults = [[drawn.not_finite, "not finite"], [drawn.one_grey, "of one grey"]].filter(([found]) => found.length);
    page.say(faults.map(([found, what]) => `${found.length} of ${drawn.images.length} samples are ${what}.`).join(" "));
  });
  const changed = () => {
    taken.replaceChildren();
    send(settings());
  };

  const seed = number(page, "seed", "Seed", { max: 2 ** 31 - 1, value: 0 }, changed);
  const another = button("Another seed", () => {
    seed.move(Math.floor(Math.random() * 1e6));
    changed();
  });
  const labels = Array.from({ length: classes }, (_, k) => [String(k), `Class ${k}`]);
  const ofClasses = classes
    ? [
        choice(page, "label", "Class", [["", "All, in turn"], ...labels, ["none", "None given"]], changed),
        slider(page, "guidance", "Guidance towards the class", { min: 0, max: 3, step: 0.1, value: 0 }, changed),
      ]
    : [];
  const counts = [["36", "6 x 6"], ["16", "4 x 4"], ["64", "8 x 8"], ["100", "10 x 10"]];
  layout(
    page,
    [
      slider(page, "temperature", "Temperature", { min: 0, max: 1.5, step: 0.05, value: 0.7 }, changed),
      ...ofClasses,
      seed,
      another,
      choice(page, "n", "Samples", counts, changed),
      element("div", { class: "row" }, button("Save PNG", () => download("png")), button("Save npy", () => download("npy"))),
    ],
    grid,
    taken,
  );
  taken.textContent = "Choose a sample to take it to another view.";
  send(settings());

  function take(i) {
    const { seed, temperature, label, guidance, n } = settings();
    const ref = ["sample", seed, temperature, label ?? "", guidance, n, i].join(":");
    const views = page.model.latents ? Object.entries(ELSEWHERE) : [["score", "Score"], ["fill", "Fill in"]];
    const links = views.flatMap(([view, title]) => [
      element("a", { href: address(view, { model: page.model.name, [view === "between" ? "a" : "image"]: ref }) }, title),
      " ",
    ]);
    taken.replaceChildren(`Take sample ${i} to `, ...links);
    taken.querySelector("a").focus();
  }

  function download(format) {
    return page.try(async () => {
      const file = await page.once("file", { ...settings(), format });
      const bytes = Uint8Array.from(atob(file.base64), (c) => c.charCodeAt(0));
      const link = element("a", { href: URL.createObjectURL(new Blob([bytes])), download: file.name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      page.say(`Downloaded ${file.name}.`);
    });
  }
}

function labelOf(text) {
  return text === "" ? null : text === "none" ? text : Number(text);
}

// Buttons for n images, in a square.
function fit(grid, n, pressed) {
  while (grid.children.length > n) grid.lastChild.remove();
  while (grid.children.length < n) {
    const i = grid.children.length;
    grid.append(element("button", { type: "button", click: () => pressed(i) }, picture("", "")));
  }
  grid.style.setProperty("--columns", Math.ceil(Math.sqrt(n)));
}
