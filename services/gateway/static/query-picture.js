// The picture that is searched with: shown, drawn on, clicked on.

import * as api from "./client.js";
import { $, el, isThing, nameOf } from "./dom.js";
import { UNITS, boxPath, outline, segmentPath, svg, veil } from "./shapes.js";

const DRAG_PIXELS = 5;
const SMALLEST_BOX = 0.01;
const KEY_STEP = 0.02;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Shows a picture and tells `onRegion` which region of it a person means: null for the whole. */
export class QueryPicture {
  constructor({ onRegion, onRemove }) {
    this.onRegion = onRegion;
    this.segments = [];
    this.region = null;
    this.panel = $("picture");
    this.image = $("picture-image");
    this.overlay = $("picture-overlay");
    this.overlay.setAttribute("viewBox", `0 0 ${UNITS} ${UNITS}`);
    this.overlay.addEventListener("pointerdown", (event) => this.#press(event));
    this.overlay.addEventListener("pointermove", (event) => this.#move(event));
    this.overlay.addEventListener("pointerup", (event) => this.#release(event));
    this.overlay.addEventListener("pointercancel", () => this.#forgetDrag());
    this.overlay.addEventListener("keydown", (event) => this.#key(event));
    this.overlay.addEventListener("pointerleave", () => !this.drag && this.#suggest(null));
    this.image.addEventListener("load", () => $("stage").style.setProperty("--shape", String(this.image.naturalWidth / this.image.naturalHeight)));
    $("whole").addEventListener("click", () => this.#choose(null));
    $("remove").addEventListener("click", onRemove);
  }

  /** Show a picture with a region marked; null shows nothing. */
  show(collection, picture, region) {
    const same = picture && this.picture && sameSource(picture, this.picture);
    this.region = region;
    this.panel.hidden = !picture;
    $("columns").classList.toggle("with-picture", Boolean(picture));
    if (!same) this.#load(collection, picture);
    this.#draw();
  }

  #load(collection, picture) {
    this.loading?.abort();
    if (this.objectUrl) URL.revokeObjectURL(this.objectUrl);
    this.objectUrl = null;
    this.picture = picture;
    this.segments = [];
    this.image.removeAttribute("src");
    if (!picture) return;
    this.loading = new AbortController();
    const drawable = picture.kind !== "address";
    $("stage").hidden = !drawable;
    $("stage-address").hidden = drawable;
    $("picture-name").textContent = picture.kind === "file" ? picture.file.name || "Pasted picture" : picture.id || "";
    if (drawable) {
      this.#prepare(collection, picture, this.loading.signal);
    } else {
      $("stage-address").textContent = picture.address;
    }
  }

  async #prepare(collection, picture, signal) {
    this.looking = true;
    try {
      if (picture.kind === "file") {
        this.objectUrl = URL.createObjectURL(picture.file);
        this.image.src = this.objectUrl;
        this.segments = await api.segment(collection, picture.file, { signal });
      } else {
        const image = await api.getImage(collection, picture.id, { signal });
        this.image.src = image.original_url;
        this.segments = image.segments;
        $("picture-name").textContent = image.title || image.id;
      }
    } catch (error) {
      if (signal.aborted) return;
      // Without suggestions the picture can still be drawn on; a search says what is wrong with it.
      this.segments = [];
    }
    if (signal.aborted) return;
    this.looking = false;
    this.#draw();
  }

  #hint() {
    if (this.picture.kind === "address") return "The service fetches this picture; this page never does.";
    if (this.region) return "Searching with the marked part.";
    if (this.looking) return "Looking for things to click on…";
    return "Drag a box, or click on a thing, to search with that part.";
  }

  #draw() {
    if (!this.picture) return;
    const { region } = this;
    $("whole").hidden = !region;
    $("picture-hint").textContent = this.#hint();
    if (this.picture.kind === "address") {
      $("picture-regions").replaceChildren();
      this.overlay.replaceChildren();
      return;
    }
    this.suggestions = this.segments.map((segment) => svg("path", { class: "suggestion", d: segmentPath(segment) }));
    const marked = [];
    const path = this.#regionPath();
    if (path) {
      const shade = veil(path);
      shade.classList.add("on");
      marked.push(shade, outline(path));
    }
    if (region?.point) marked.push(dot(region.point));
    this.overlay.replaceChildren(...marked, ...this.suggestions);
    if (!this.drag) this.#listRegions();
  }

  #regionPath() {
    const { region } = this;
    if (!region) return "";
    if (region.box) return boxPath(region.box);
    const index = region.segment ?? region.near;
    const segment = this.segments.find((each) => each.index === index);
    return segment ? segmentPath(segment) : "";
  }

  #listRegions() {
    const chosen = this.region?.segment ?? this.region?.near;
    const things = [...this.segments.entries()].filter(([, segment]) => isThing(segment));
    const chips = things.map(([position, segment]) =>
      el("li", {}, el("button", {
        type: "button",
        class: "chip neutral",
        "aria-pressed": String(segment.index === chosen),
        click: () => this.#choose(segment.index === chosen ? null : this.#regionOf(segment)),
        mouseenter: () => this.#suggest(position),
        mouseleave: () => this.#suggest(null),
        focus: () => this.#suggest(position),
        blur: () => this.#suggest(null),
      }, nameOf(segment))));
    $("picture-regions").replaceChildren(...chips);
  }

  /** A stored picture's segment has a number; of another picture the service finds it again around its box. */
  #regionOf(segment, point = null) {
    if (this.picture.kind === "stored") return { segment: segment.index };
    return point ? { point, near: segment.index } : { box: segment.box, near: segment.index };
  }

  #choose(region) {
    this.region = region;
    this.#draw();
    this.onRegion(region);
  }

  #suggest(position) {
    this.suggestions?.forEach((shape, index) => shape.classList.toggle("on", index === position));
  }

  #place(event) {
    const frame = this.overlay.getBoundingClientRect();
    return {
      x: between((event.clientX - frame.left) / frame.width, 0, 1),
      y: between((event.clientY - frame.top) / frame.height, 0, 1),
    };
  }

  #press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.overlay.setPointerCapture(event.pointerId);
    this.drag = { from: this.#place(event), x: event.clientX, y: event.clientY, box: null, before: this.region };
  }

  #move(event) {
    const here = this.#place(event);
    if (!this.drag) {
      this.#suggest(this.#segmentAt(here));
      return;
    }
    const { from } = this.drag;
    const far = Math.hypot(event.clientX - this.drag.x, event.clientY - this.drag.y) > DRAG_PIXELS;
    if (!far && !this.drag.box) return;
    this.drag.box = {
      x0: Math.min(from.x, here.x), y0: Math.min(from.y, here.y), x1: Math.max(from.x, here.x), y1: Math.max(from.y, here.y),
    };
    this.region = { box: this.drag.box };
    this.#draw();
  }

  #release() {
    if (!this.drag) return;
    const { box, from, before } = this.drag;
    this.drag = null;
    if (!box) {
      const position = this.#segmentAt(from);
      const segment = this.segments[position];
      this.#choose(segment ? this.#regionOf(segment, from) : { point: from });
    } else if (box.x1 - box.x0 < SMALLEST_BOX || box.y1 - box.y0 < SMALLEST_BOX) {
      this.region = before;
      this.#draw();
    } else {
      this.#choose({ box });
    }
  }

  /** Arrows move a box, with Shift its lower right corner; Enter searches with it, Escape with the whole picture. */
  #key(event) {
    if (event.key === "Escape" && this.region) this.#choose(null);
    if (event.key === "Enter" && this.region?.box) this.#choose(this.region);
    const [across, down] = (ARROWS[event.key] || [0, 0]).map((way) => way * KEY_STEP);
    if (!across && !down) return;
    event.preventDefault();
    const { x0, y0, x1, y1 } = this.region?.box || { x0: 0.3, y0: 0.3, x1: 0.7, y1: 0.7 };
    const box = event.shiftKey
      ? { x0, y0, x1: between(x1 + across, x0 + KEY_STEP, 1), y1: between(y1 + down, y0 + KEY_STEP, 1) }
      : moved({ x0, y0, x1, y1 }, between(across, -x0, 1 - x1), between(down, -y0, 1 - y1));
    this.region = { box };
    this.#draw();
  }

  #forgetDrag() {
    if (this.drag) this.region = this.drag.before;
    this.drag = null;
    this.#draw();
  }

  /** Position of the smallest segment under a place: what lies in front is smaller than what is behind it. */
  #segmentAt({ x, y }) {
    let best = null;
    this.suggestions?.forEach((shape, position) => {
      const under = shape.isPointInFill(new DOMPoint(x * UNITS, y * UNITS));
      if (under && (best === null || this.segments[position].area_fraction < this.segments[best].area_fraction)) best = position;
    });
    return best;
  }
}

const between = (value, low, high) => Math.min(high, Math.max(low, value));

const moved = ({ x0, y0, x1, y1 }, across, down) => ({ x0: x0 + across, y0: y0 + down, x1: x1 + across, y1: y1 + down });

function sameSource(one, other) {
  return one.kind === other.kind && one.id === other.id && one.file === other.file && one.address === other.address;
}

/** A dot of no length: its width is its line's, which the overlay does not stretch. */
function dot({ x, y }) {
  const place = `M${x * UNITS} ${y * UNITS}h0.01`;
  return svg("g", { class: "dot" }, svg("path", { class: "dot-halo", d: place }), svg("path", { class: "dot-core", d: place }));
}
