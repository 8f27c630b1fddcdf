// The frame around the views: tabs, the model, and the settings in the address, as #/draw?model=mnist&seed=3.

import { ask } from "./api.js";
import between from "./between.js";
import draw from "./draw.js";
import edit from "./edit.js";
import fill from "./fill.js";
import plane from "./plane.js";
import runs from "./runs.js";
import scales from "./scales.js";
import score from "./score.js";
import { element } from "./widgets.js";

const views = { draw, between, edit, scales, fill, score, plane, runs };
const at = (id) => document.getElementById(id);
const visited = {}; // the last address of each view, which its tab leads back to
let leave = new AbortController();
let models = [];
let first = null;

// What a view is given. It fills `root`, reads and writes its settings, and asks the server.
class Page {
  constructor(name, settings, signal) {
    Object.assign(this, { name, settings, signal, root: at("view"), model: null });
  }

  // A setting of the address, or else the default; a number where the default is one.
  get(key, fallback = null) {
    const value = this.settings.get(key);
    if (value === null) return fallback;
    return typeof fallback === "number" ? (Number.isFinite(Number(value)) ? Number(value) : fallback) : value;
  }

  // Writes settings into the address; null takes one out.
  set(changes) {
    for (const [key, value] of Object.entries(changes)) {
      if (value === null) this.settings.delete(key);
      else this.settings.set(key, value);
    }
    history.replaceState(null, "", address(this.name, this.settings));
    remember(this.name, this.settings);
  }

  // The events of a request; it ends when the visitor leaves the view. `more` is a signal that ends it earlier.
  async *ask(name, settings = {}, more = null) {
    const signal = more ? AbortSignal.any([this.signal, more]) : this.signal;
    const timer = setTimeout(() => (at("busy").hidden = false), 500);
    try {
      yield* ask(name, { model: this.model?.name, ...settings }, signal);
    } finally {
      clearTimeout(timer);
      at("busy").hidden = true;
    }
  }

  // The last event of a request; null if another request of this page took its place.
  async once(name, settings = {}) {
    let last = null;
    for await (const event of this.ask(name, settings)) last = event;
    return last;
  }

  // A function that sends settings and has `receive` called with the answers. While one request is under way only the newest
  // of the others waits, so that a picture follows the mouse as fast as the model can.
  latest(name, receive) {
    let busy = false;
    let next = null;
    return (settings = {}) => {
      next = settings;
      if (busy) return;
      busy = true;
      this.try(async () => {
        while (next) {
          const sent = next;
          next = null;
          for await (const event of this.ask(name, sent)) receive(event, sent);
          this.fail("");
        }
      }).finally(() => (busy = false));
    };
  }

  // Does something, and shows its error on the page.
  async try(work) {
    try {
      return await work();
    } catch (error) {
      if (!this.signal.aborted && error.name !== "AbortError") this.fail(error.message);
    }
  }

  say(text) {
    at("message").textContent = text;
  }

  fail(text) {
    at("error").textContent = text;
  }
}

export function address(view, settings) {
  const query = new URLSearchParams(settings).toString().replaceAll("%3A", ":").replaceAll("%2F", "/").replaceAll("%2C", ",");
  return `#/${view}${query ? `?${query}` : ""}`;
}

// Tabs of other views lead to where the visitor was, with the model of this one.
function remember(name, settings) {
  visited[name] = new URLSearchParams(settings);
  for (const link of document.querySelectorAll("nav a")) {
    const view = link.dataset.view;
    const model = models.find((m) => m.name === settings.get("model"));
    const before = visited[view] ?? new URLSearchParams();
    const fits = model && (!model.kind || model.kind === views[view].models);
    const kept = before.get("model") === model?.name || !fits ? before : new URLSearchParams({ model: model.name });
    link.href = address(view, kept);
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function show() {
  leave.abort();
  leave = new AbortController();
  const [, name, query] = location.hash.match(/^#\/(\w+)\??(.*)$/) ?? [];
  const view = views[name];
  if (!view) {
    location.replace(address("draw", {}));
    return;
  }
  const page = new Page(name, new URLSearchParams(query), leave.signal);
  remember(name, page.settings);
  page.root.replaceChildren();
  page.say("");
  page.fail("");
  at("title").textContent = view.title;
  at("about").textContent = view.about;
  document.title = `${view.title} - Glow`;
  await page.try(async () => {
    await listModels(page, view);
    remember(name, page.settings);
    if (view.models && !page.model) return;
    await view.show(page);
  });
}

// Fills the list of models with those that the view can show, and opens the one of the address.
async function listModels(page, view) {
  const select = at("model");
  select.parentElement.hidden = !view.models;
  ({ models, first } = await page.once("models"));
  if (!view.models) return;
  const fitting = models.filter((m) => !m.kind || m.kind === view.models).map((m) => m.name);
  const wanted = page.get("model", fitting.includes(first) ? first : (fitting[0] ?? null));
  select.replaceChildren(...fitting.map((n) => element("option", { value: n }, n)));
  if (!wanted) {
    page.fail(`There is no model of ${view.models} yet: train one, and it will be listed here.`);
    return;
  }
  if (!fitting.includes(wanted)) select.append(element("option", { value: wanted }, wanted));
  select.value = wanted;
  page.settings.set("model", wanted);
  const model = await page.once("model", { model: wanted });
  if (model.kind !== view.models) throw new Error(`${wanted} is a model of ${model.kind}, and this view is for ${view.models}.`);
  if (view.latents && !model.latents) throw new Error(`${wanted} has no latents that can be moved: this view needs a flow with a normal base.`);
  page.model = model;
}

at("model").addEventListener("change", (event) => {
  const name = location.hash.match(/^#\/(\w+)/)[1];
  location.hash = address(name, { model: event.target.value });
});
document.querySelector("nav").append(
  ...Object.entries(views).map(([name, view]) => element("a", { href: `#/${name}`, "data-view": name }, view.title)),
);
addEventListener("hashchange", show);
show();
