// What each scale of the model holds of an image: its latents drawn anew, or those of all others.

import { anImage, button, element, imagePicker, layout, number, picture, slider } from "./widgets.js";

export default {
  title: "Scales",
  about: "The latents of one scale are drawn anew, or those of all scales but one: what stays is what the others hold.",
  models: "images",
  latents: true,
  show,
};

function show(page) {
  const rows = element("div", { class: "rows" });
  const picker = imagePicker(page, "image", "Image", anImage(page, 0), changed);
  const { scales, shape } = page.model;
  const size = (dims) => dims.reduce((a, b) => a * b, 1);
  const send = page.latest("scales", (answer, sent) => {
    rows.replaceChildren(...answer.rows.map(row));
    rows.dataset.settings = JSON.stringify(sent);
  });

  function row({ drawn, images, error }) {
    const alone = drawn.length === 1;
    const scale = alone ? drawn[0] : scales.findIndex((_, i) => !drawn.includes(i));
    const share = (100 * drawn.reduce((sum, i) => sum + size(scales[i]), 0)) / size(shape);
    const name = alone ? `Scale ${scale + 1} drawn anew` : `All but scale ${scale + 1} drawn anew`;
    return element(
      "section",
      {},
      element("h3", {}, name),
      element("p", { class: "hint" }, `${share.toFixed(0)} % of the latents; mean error ${error.toFixed(1)} grey levels`),
      element("div", { class: "strip" }, ...images.map((source, i) => picture(source, `${name}, draw ${i + 1}`))),
    );
  }

  function changed() {
    send({ images: [picker.value()], temperature: page.get("temperature", 0.7), seed: page.get("seed", 0) });
  }

  const seed = number(page, "seed", "Seed", { max: 2 ** 31 - 1, value: 0 }, changed);
  const another = button("Draw again", () => {
    seed.move(Math.floor(Math.random() * 1e6));
    changed();
  });
  const words = scales.map((dims, i) => `${i + 1}${i === 0 ? ", the finest" : ""}: ${dims.join(" x ")}`);
  layout(
    page,
    [
      picker,
      slider(page, "temperature", "Temperature", { min: 0, max: 1.5, step: 0.05, value: 0.7 }, changed),
      seed,
      another,
      element("p", { class: "hint" }, `Latents by scale (channels, height, width): ${words.join("; ")}.`),
    ],
    rows,
  );
  changed();
}
