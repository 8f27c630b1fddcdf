// Controls with labels, which keep their values in the address.

import { upload } from "./api.js";

let count = 0;

// An element with attributes and children; a function as attribute listens to the event of that name.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function labelled(text, control, ...more) {
  control.id ||= `control-${++count}`;
  return element("div", { class: "control" }, element("label", { for: control.id }, text), control, ...more);
}

// A slider with its value beside it. `changed` is called with the number after the address has it.
export function slider(page, key, text, { min, max, step, value }, changed) {
  const shown = element("output");
  const input = element("input", {
    type: "range", min, max, step,
    input: () => {
      write();
      page.set({ [key]: input.value });
      changed(Number(input.value));
    },
  });
  const write = () => {
    shown.textContent = Number(input.value).toFixed(step < 0.1 ? 2 : step < 1 ? 1 : 0);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.value = page.get(key, value);
  write();
  const control = labelled(text, input, shown);
  control.classList.add("slider");
  control.move = (to) => {
    input.value = to;
    write();
    page.set({ [key]: input.value });
  };
  return control;
}

// A number that is typed.
export function number(page, key, text, { min = 0, max, value }, changed) {
  const input = element("input", {
    type: "number", min, max, step: 1, inputmode: "numeric",
    change: () => {
      const typed = Math.round(Math.min(max, Math.max(min, Number(input.value) || 0)));
      control.move(typed);
      changed(typed);
    },
  });
  input.value = page.get(key, value);
  const control = labelled(text, input);
  control.move = (to) => {
    input.value = to;
    page.set({ [key]: to });
  };
  return control;
}

// A choice among [value, words]; an empty value is not in the address.
export function choice(page, key, text, options, changed) {
  const input = element(
    "select",
    {
      change: () => {
        page.set({ [key]: input.value || null });
        changed(input.value);
      },
    },
    ...options.map(([value, words]) => element("option", { value }, words)),
  );
  input.value = page.get(key, options[0][0]);
  if (input.selectedIndex < 0) input.selectedIndex = 0;
  return labelled(text, input);
}

export function button(text, pressed, attributes = {}) {
  return element("button", { type: "button", click: pressed, ...attributes }, text);
}

// Two columns: controls, and what they move.
export function layout(page, controls, ...stage) {
  page.root.replaceChildren(
    element("form", { class: "controls", "aria-label": "Settings", submit: (e) => e.preventDefault() }, ...controls),
    element("div", { class: "stage" }, ...stage),
  );
}

// An image whose pixels stay square.
export function picture(source, description) {
  return element("img", { src: source || null, alt: description, draggable: "false" });
}

// An image by default: of the test images, or a sample where they are not on this machine.
export function anImage(page, i) {
  return page.model.examples ? `test:${i % page.model.examples}` : `sample:0:0.7::0:36:${i % 36}`;
}

export function describe(ref) {
  const [kind, ...rest] = ref.split(":");
  if (kind === "test") return `test image ${rest[0]}`;
  return kind === "sample" ? `sample ${rest.at(-1)} of seed ${rest[0]}` : "an upload";
}

// A place for an image: a test image by its number, or an upload; samples come from the view Draw. `changed` is called with
// the word that points to it.
export function imagePicker(page, key, text, fallback, changed) {
  const image = picture("", "");
  const words = element("span", { class: "hint" });
  const index = element("input", {
    type: "number", min: 0, max: Math.max(0, page.model.examples - 1), step: 1, inputmode: "numeric", "aria-label": `${text}: number of a test image`,
    change: () => pick(`test:${Math.max(0, Math.round(Number(index.value) || 0))}`),
  });
  const another = button("Random", () => pick(`test:${Math.floor(Math.random() * page.model.examples)}`), { "aria-label": `${text}: random test image` });
  const file = element("input", {
    type: "file", accept: "image/*", "aria-label": `${text}: upload a picture`,
    change: () => page.try(async () => file.files.length && pick(await upload(file.files[0], page.signal))),
  });
  let ref = page.get(key, fallback);
  const show = () =>
    page.try(async () => {
      const found = await page.once("images", { images: [ref], control: key });
      if (!found) return;
      image.src = found.images[0];
      image.alt = `${text}: ${describe(ref)}`;
      words.textContent = describe(ref);
      index.value = ref.startsWith("test:") ? ref.slice(5) : "";
    });
  const pick = async (chosen) => {
    ref = chosen;
    page.fail("");
    page.set({ [key]: ref });
    await changed(ref);
    await show();
  };
  const tests = page.model.examples ? element("div", { class: "row" }, index, another) : null;
  const made = element("fieldset", { class: "picker" }, element("legend", {}, text), image, element("div", {}, words, tests, element("label", { class: "upload" }, "Upload", file)));
  made.ready = show();
  made.value = () => ref;
  made.pick = pick;
  return made;
}
