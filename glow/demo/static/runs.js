// Curves and pictures of runs next to one another, while they train, too.

import { chart } from "./chart.js";
import { element, layout, picture } from "./widgets.js";

const EVERY = 2000; // milliseconds
const MOST = 6;
const UNITS = { bpd: "bits per dimension", nll: "nats" };

export default {
  title: "Runs",
  about: "Runs in the output folder, next to one another. They are read again every two seconds, so that a training can be watched.",
  models: null,
  show,
};

async function show(page) {
  const list = element("fieldset", { class: "list" }, element("legend", {}, "Runs"));
  const curves = element("div", { class: "charts" });
  const pictures = element("div", { class: "columns" });
  const shown = {}; // which picture of a run is on the page, as of when
  layout(page, [list], curves, pictures);
  let chosen = page.get("runs")?.split(",") ?? null;

  async function update() {
    const { runs } = (await page.once("runs")) ?? {};
    if (!runs) return;
    chosen ??= runs.slice(0, 2).map((run) => run.name);
    fillList(runs);
    const there = chosen.filter((name) => runs.some((run) => run.name === name));
    page.say(there.length ? "" : runs.length ? "Choose runs to see their curves." : "There are no runs yet: python train.py makes one.");
    const answer = there.length ? await page.once("curves", { runs: there }) : { runs: {} };
    if (!answer) return;
    showCurves(answer.runs);
    await showPictures(answer.runs);
    page.fail("");
  }

  function fillList(runs) {
    const names = runs.map((run) => run.name);
    if (list.dataset.names === names.join()) return;
    list.dataset.names = names.join();
    const box = (name) =>
      element("label", { class: "check" }, element("input", {
        type: "checkbox", value: name, checked: chosen.includes(name),
        change: (event) => {
          chosen = event.target.checked ? [...chosen, name].slice(-MOST) : chosen.filter((n) => n !== name);
          for (const input of list.querySelectorAll("input")) input.checked = chosen.includes(input.value);
          page.set({ runs: chosen.join() });
          page.try(update);
        },
      }), name);
    list.replaceChildren(list.firstChild, ...names.map(box));
  }

  function showCurves(runs) {
    const units = new Map(); // bits/dim and nats have a chart each
    Object.entries(runs).forEach(([name, run], colour) => {
      for (const [key, points] of Object.entries(run.curves)) {
        const unit = key.split("/")[1];
        if (!(unit in UNITS || `train/${unit}_step` in run.curves)) continue;
        if (!units.has(unit)) units.set(unit, []);
        units.get(unit).push({ points, colour, dashed: key.startsWith("train") });
      }
    });
    curves.replaceChildren(
      ...[...units].map(([unit, lines]) => {
        const title = UNITS[unit] ?? unit;
        return element("figure", {}, element("figcaption", {}, `${title}: validation, and training (dashed)`), chart(title, lines));
      }),
    );
  }

  async function showPictures(runs) {
    const names = Object.keys(runs);
    for (const column of [...pictures.children]) if (!names.includes(column.dataset.run)) column.remove();
    for (const [colour, name] of names.entries()) {
      let column = [...pictures.children].find((c) => c.dataset.run === name);
      if (!column) {
        column = element("section", { "data-run": name }, element("h3", {}, name), element("p", { class: "figures" }), element("div", { class: "pictures" }));
        pictures.append(column);
        delete shown[name];
      }
      column.firstChild.className = `colour-${colour}`;
      column.children[1].textContent = words(runs[name]);
      const [newest] = runs[name].pictures;
      const key = newest && `${newest.name} ${newest.changed}`;
      if (!newest || shown[name] === key) continue;
      const found = await page.once("picture", { run: name, picture: newest.name });
      if (found) column.lastChild.replaceChildren(picture(found.picture, `${newest.name} of ${name}`), element("p", { class: "hint" }, newest.name));
      shown[name] = key;
    }
  }

  await update();
  const timer = setInterval(() => document.hidden || page.try(update), EVERY);
  page.signal.addEventListener("abort", () => clearInterval(timer));
}

function words(run) {
  const tests = Object.entries(run.test).filter(([, v]) => typeof v === "number");
  if (tests.length) return `Test: ${tests.map(([kind, v]) => `${v.toFixed(3)} (${kind})`).join(", ")}`;
  const last = run.curves["val/bpd"]?.at(-1) ?? run.curves["val/nll"]?.at(-1);
  return last ? `Step ${last[0]}: validation ${last[1].toFixed(3)}` : "No validation yet";
}
