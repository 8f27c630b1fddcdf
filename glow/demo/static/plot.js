// A square with axes on a canvas, over a picture if there is one.

import { ticks } from "./chart.js";
import { element } from "./widgets.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [32, 6, 10, 28]; // around the square; style.css has them, too

// `paint` is called with the plot, whenever its size changes.
export class Plot {
  constructor(picture, description, paint) {
    this.canvas = element("canvas", { role: "img", "aria-label": description });
    this.root = element("div", { class: "plot" }, picture, this.canvas);
    this.paint = () => this.canvas.clientWidth && paint(this);
  }

  // Paints again where the size or the colours of the page change.
  watch(signal) {
    const observer = new ResizeObserver(this.paint);
    observer.observe(this.canvas);
    signal.addEventListener("abort", () => observer.disconnect());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.paint, { signal });
  }

  // Begins a picture: the axes from box [x0, x1, y0, y1].
  axes(box) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = devicePixelRatio;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    this.context = this.canvas.getContext("2d");
    this.context.scale(scale, scale);
    this.box = box;
    this.inside = [width - LEFT - RIGHT, height - TOP - BOTTOM];
    this.context.fillStyle = this.context.strokeStyle = getComputedStyle(this.canvas).color;
    this.context.font = "12px system-ui, sans-serif";
    this.context.strokeRect(LEFT - 0.5, TOP - 0.5, this.inside[0] + 1, this.inside[1] + 1);
    this.context.textAlign = "center";
    for (const v of ticks(box[0], box[1])) this.context.fillText(v, this.at([v, box[2]])[0], height - BOTTOM + 17);
    this.context.textAlign = "right";
    for (const v of ticks(box[2], box[3])) this.context.fillText(v, LEFT - 5, this.at([box[0], v])[1] + 4);
    this.context.beginPath();
    this.context.rect(LEFT, TOP, ...this.inside);
    this.context.clip();
  }

  // From a point of the plane to pixels, and back.
  at([x, y]) {
    const [x0, x1, y0, y1] = this.box;
    return [LEFT + ((x - x0) / (x1 - x0)) * this.inside[0], TOP + ((y1 - y) / (y1 - y0)) * this.inside[1]];
  }

  point(event) {
    const [x0, x1, y0, y1] = this.box;
    const { left, top } = this.canvas.getBoundingClientRect();
    return [x0 + ((event.clientX - left - LEFT) / this.inside[0]) * (x1 - x0), y1 - ((event.clientY - top - TOP) / this.inside[1]) * (y1 - y0)];
  }

  line(points, colour, width) {
    this.context.beginPath();
    for (const point of points) this.context.lineTo(...this.at(point));
    Object.assign(this.context, { strokeStyle: colour, lineWidth: width });
    this.context.stroke();
  }

  dot(point, radius, colour, edge = null) {
    this.context.beginPath();
    this.context.arc(...this.at(point), radius, 0, 7);
    this.context.fillStyle = colour;
    this.context.fill();
    if (!edge) return;
    Object.assign(this.context, { strokeStyle: edge, lineWidth: 0.7 });
    this.context.stroke();
  }
}
