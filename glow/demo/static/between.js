// Up to four images at the corners of a sheet, and a point on it that is decoded while it is dragged.

import { choice, anImage, element, imagePicker, layout, picture, slider } from "./widgets.js";

const STEPS = 7;
const CORNERS = [["a", "Top left"], ["b", "Top right"], ["c", "Bottom left"], ["d", "Bottom right"]];

export default {
  title: "Between",
  about: "Images at the corners of a sheet, and the way between their latents. Drag the point: it is decoded where it is.",
  models: "images",
  latents: true,
  show,
};

function show(page) {
  const sheet = element("div", { class: "sheet", role: "img", "aria-label": "The sheet between the images; the sliders move the point on it" });
  const point = element("div", { class: "point" });
  const decoded = picture("", "The image at the point");
  const pickers = CORNERS.map(([key, text], i) => imagePicker(page, key, text, anImage(page, i), redraw));
  const corners = () => pickers.slice(0, page.get("corners", 4)).map((p) => p.value());
  const common = () => ({ images: corners(), path: page.get("path", "great_circle") });

  const showSheet = page.latest("sheet", ({ images }) => {
    sheet.replaceChildren(...images.map((source) => picture(source, "")), point);
  });
  const showPoint = page.latest("point", ({ images }, sent) => {
    decoded.src = images[0];
    decoded.dataset.at = `${sent.across},${sent.down}`;
  });
  const rows = () => (corners().length > 2 ? STEPS : 1); // between two images all rows would be the same
  const moved = () => {
    const [across, down] = [page.get("across", 0.5), rows() > 1 ? page.get("down", 0.5) : 0];
    point.style.left = `${(100 * (0.5 + across * (STEPS - 1))) / STEPS}%`; // from the middle of one image to that of another
    point.style.top = `${(100 * (0.5 + down * (rows() - 1))) / rows()}%`;
    showPoint({ ...common(), across, down });
  };
  function redraw() {
    pickers.forEach((p, i) => (p.hidden = i >= page.get("corners", 4)));
    down.hidden = rows() === 1;
    showSheet({ ...common(), columns: STEPS, rows: rows() });
    moved();
  }

  const range = { min: 0, max: 1, step: 0.01, value: 0.5 };
  const across = slider(page, "across", "Across", range, moved);
  const down = slider(page, "down", "Down", range, moved);
  const drag = (event) => {
    const box = sheet.getBoundingClientRect();
    const share = (at, n) => Math.min(1, Math.max(0, (at * n - 0.5) / (n - 1))).toFixed(3);
    across.move(share((event.clientX - box.left) / box.width, STEPS));
    if (rows() > 1) down.move(share((event.clientY - box.top) / box.height, STEPS));
    moved();
  };
  sheet.addEventListener("pointerdown", (event) => {
    sheet.setPointerCapture(event.pointerId);
    drag(event);
  });
  sheet.addEventListener("pointermove", (event) => sheet.hasPointerCapture(event.pointerId) && drag(event));

  layout(
    page,
    [
      across,
      down,
      choice(page, "corners", "Images", [["4", "Four"], ["3", "Three"], ["2", "Two"]], redraw),
      choice(page, "path", "Path", [["great_circle", "Great circle"], ["line", "Straight line"]], redraw),
      ...pickers,
    ],
    element("div", { class: "pair" }, sheet, element("figure", {}, decoded, element("figcaption", {}, "The image at the point"))),
  );
  return redraw();
}
