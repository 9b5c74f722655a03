// One stored picture, large, with everything known about it.

import * as api from "./client.js";
import { $, bytes, el, isThing, nameOf, titleOf } from "./dom.js";
import { distinct, why } from "./results.js";
import { outline, overlay, segmentPath, veil } from "./shapes.js";

const STATES = {
  IMAGE_STATE_DURABLE: "Stored, not searchable yet",
  IMAGE_STATE_SEARCHABLE: "Searchable as a whole",
  IMAGE_STATE_SEGMENTED: "Searchable, with its segments",
  IMAGE_STATE_FAILED: "Could not be indexed",
};

export class Detail {
  constructor({ onAlike, onSegment, onTag }) {
    this.actions = { onAlike, onSegment, onTag };
    this.dialog = $("detail");
    $("detail-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => this.loading?.abort());
  }

  /** Open with what is known already, and fill in the rest. */
  async open(collection, image, result) {
    this.loading?.abort();
    this.loading = new AbortController();
    const { signal } = this.loading;
    this.#show(image, result);
    this.dialog.showModal();
    this.dialog.scrollTop = 0;
    try {
      const whole = await api.getImage(collection, image.id, { signal });
      if (!signal.aborted) this.#show(whole, result);
    } catch (error) {
      if (!signal.aborted) $("detail-body").replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
    }
  }

  #show(image, result) {
    $("detail-title").textContent = titleOf(image);
    $("detail-id").textContent = image.id;
    const picture = el("img", { src: image.original_url, alt: titleOf(image) });
    if (image.height) $("detail-stage").style.setProperty("--shape", String(image.width / image.height));
    this.drawing = overlay();
    $("detail-stage").replaceChildren(picture, this.drawing);
    this.#drawSegments(result ? distinct(result.matched_segments).map((match) => match.segment) : []);
    $("detail-actions").replaceChildren(
      this.#button("More like this", () => this.actions.onAlike(image)),
      el("a", { class: "plain", href: image.original_url, target: "_blank", rel: "noopener" }, "Original"),
    );
    $("detail-body").replaceChildren(...this.#tags(image), ...this.#segments(image, result), ...facts(image, result));
  }

  #button(label, act) {
    return el("button", { type: "button", class: "plain", click: () => { this.dialog.close(); act(); } }, label);
  }

  #drawSegments(segments, only = null) {
    const shown = only === null ? segments : segments.filter((segment) => segment.index === only);
    const paths = shown.map((segment) => segmentPath(segment));
    this.drawing.replaceChildren(...paths.map((path, hue) => outline(path, { second: only === null && paths.length > 3, hue })));
    if (only !== null && paths.length) {
      const shade = veil(paths[0]);
      shade.classList.add("on");
      this.drawing.prepend(shade);
    }
  }

  #tags(image) {
    if (!image.tags.length) return [];
    const chips = image.tags.map((tag) => el("li", {}, el("button", {
      type: "button", class: "chip neutral", title: `Only with the tag ${tag.name}`,
      click: () => { this.dialog.close(); this.actions.onTag(tag.name); },
    }, tag.name, el("small", {}, tag.confidence < 1 ? tag.confidence.toFixed(2) : ""))));
    return [el("h3", {}, "Tags"), el("ul", { class: "chips" }, ...chips)];
  }

  #segments(image, result) {
    if (!image.segments.length) return [];
    const similarity = new Map((result?.matched_segments || []).map((match) => [match.segment.index, match.similarity]));
    const things = image.segments.filter(isThing);
    const matched = [...similarity.keys()].map((index) => image.segments.find((each) => each.index === index)).filter(Boolean);
    const rest = () => this.#drawSegments(matched.length ? matched : things);
    const rows = [...things, ...image.segments.filter((each) => !isThing(each))].map((segment) => {
      const alike = similarity.get(segment.index);
      const share = `${(segment.area_fraction * 100).toFixed(segment.area_fraction < 0.1 ? 1 : 0)} % of the picture`;
      const row = el("li", { class: "segment-row" },
        el("span", { class: "words" }, nameOf(segment, 2), " ",
          el("small", {}, alike === undefined ? share : `${share}, similarity ${alike.toFixed(2)}`)),
        el("button", { type: "button", click: () => { this.dialog.close(); this.actions.onSegment(image, segment); } }, "Find more"));
      const light = () => this.#drawSegments(image.segments, segment.index);
      row.addEventListener("mouseenter", light);
      row.addEventListener("focusin", light);
      row.addEventListener("mouseleave", rest);
      row.addEventListener("focusout", rest);
      return row;
    });
    rest();
    return [el("h3", {}, "In the picture"), el("ul", {}, ...rows)];
  }
}

const plain = (value) => (Array.isArray(value) ? value.map(plain).join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value));

function facts(image, result) {
  const time = (value) => (value ? new Date(value).toLocaleString() : "");
  const entries = [
    ["Score", result ? result.score.toFixed(3) : ""],
    ["Made of", result ? why(result).join("  ·  ") : ""],
    ["State", image.state === "IMAGE_STATE_SEGMENTED" ? "" : STATES[image.state]],
    ["Failure", image.failure],
    ["Size", image.width ? `${image.width} × ${image.height}, ${bytes(image.size_bytes)}` : ""],
    ["Type", image.content_type],
    ["Source", image.source],
    ["Stored", time(image.create_time)],
    ...Object.entries(image.metadata || {}).map(([key, value]) => [key, plain(value)]),
  ].filter(([, value]) => value);
  const list = el("dl", { class: "facts" });
  for (const [name, value] of entries) list.append(el("dt", {}, name), el("dd", {}, value));
  return [el("h3", {}, "Details"), list];
}
