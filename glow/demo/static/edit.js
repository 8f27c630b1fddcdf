// An image moved along the differences of classes, and of two groups that the visitor picks.

import { anImage, button, choice, element, imagePicker, layout, picture, slider } from "./widgets.js";

const RANGE = { min: -1.5, max: 1.5, step: 0.05, value: 0 };
const CANDIDATES = 24; // images for the groups

export default {
  title: "Edit",
  about: "The image's latents are moved along the difference of two groups' mean latents; 1 is the whole way from one to the other.",
  models: "images",
  latents: true,
  show,
};

function figure(image, words) {
  return element("figure", {}, image, element("figcaption", {}, words));
}

function show(page) {
  const before = picture("", "The image as it is");
  const after = picture("", "The image as the sliders move it");
  const { labels } = page.model;
  const picker = imagePicker(page, "image", "Image", anImage(page, 0), changed);
  const groups = { from: list("from"), to: list("to") };
  const send = page.latest("edit", (answer, sent) => {
    [before.src, after.src] = answer.images;
    after.dataset.settings = JSON.stringify(sent.directions);
    page.say("");
  });

  function list(key) {
    return page.get(key)?.split(",") ?? [];
  }

  function changed() {
    const start = Number(page.get("start", String(labels[0])));
    const directions = labels
      .filter((end) => page.get(`c${end}`, 0) && end !== start)
      .map((end) => ({ start, end, strength: page.get(`c${end}`, 0) }));
    const strength = page.get("strength", 0);
    if (strength && groups.from.length && groups.to.length) directions.push({ start: groups.from, end: groups.to, strength });
    else if (strength) page.say("Choose images for both groups first.");
    send({ images: [picker.value()], directions });
  }

  const sliders = labels.map((end) => slider(page, `c${end}`, `Class ${end}`, RANGE, changed));
  const ofGroups = slider(page, "strength", "From 1 to 2", RANGE, changed);
  const reset = button("Back to the image", () => {
    for (const control of [...sliders, ofGroups]) control.move(0);
    changed();
  });
  const start = choice(page, "start", "Differences from class", labels.map((k) => [String(k), `Class ${k}`]), changed);
  layout(
    page,
    [
      picker,
      reset,
      ...(labels.length ? [start, element("fieldset", { class: "two" }, element("legend", {}, "Towards"), ...sliders)] : []),
      element(
        "fieldset",
        {},
        element("legend", {}, "Two groups of your own"),
        element("p", { class: "hint" }, "Choose an image to put it into group 1, again for group 2, and again to take it out."),
        candidates(),
        ofGroups,
      ),
    ],
    element("div", { class: "pair equal" }, figure(before, "Before"), figure(after, "After")),
  );
  changed();

  function candidates() {
    const refs = Array.from({ length: CANDIDATES }, (_, i) => anImage(page, i));
    const buttons = refs.map((ref, i) => {
      const made = element("button", { type: "button" }, picture("", ""), element("span", {}));
      const write = () => {
        const where = groups.from.includes(ref) ? "1" : groups.to.includes(ref) ? "2" : "";
        made.dataset.group = where;
        made.lastChild.textContent = where;
        made.setAttribute("aria-label", `Image ${i}, ${["in no group", "in group 1", "in group 2"][Number(where)]}`);
      };
      made.addEventListener("click", () => {
        const was = made.dataset.group;
        for (const key of ["from", "to"]) groups[key] = groups[key].filter((r) => r !== ref);
        if (was === "") groups.from.push(ref);
        if (was === "1") groups.to.push(ref);
        page.set({ from: groups.from.join() || null, to: groups.to.join() || null });
        write();
        changed();
      });
      write();
      return made;
    });
    page.try(async () => {
      const found = await page.once("images", { images: refs, control: "groups" });
      found?.images.forEach((source, i) => (buttons[i].firstChild.src = source));
    });
    return element("div", { class: "strip candidates", role: "group", "aria-label": "Images for the groups" }, ...buttons);
  }
}
