// The grid of pictures.

import { el, icon, nameOf, titleOf } from "./dom.js";
import { outline, overlay, segmentPath, veil } from "./shapes.js";

const MOST_OUTLINES = 5;
// Very long or tall pictures would break their row.
const WIDEST = 2.6;
const TALLEST = 0.5;

/** A card for a stored picture, with what matched where it was found by a search. */
export function card(image, { result = null, how = "shape", onOpen, onAlike }) {
  const shape = Math.min(WIDEST, Math.max(TALLEST, (image.width || 4) / (image.height || 3)));
  const title = titleOf(image);
  const matches = result ? distinct(result.matched_segments).slice(0, MOST_OUTLINES) : [];
  const picture = el("img", { src: image.thumbnail_url || image.original_url, alt: "", loading: "lazy", decoding: "async",
    load: (event) => event.target.classList.add("loaded"), error: (event) => event.target.classList.add("broken") });
  const frame = el("button", { type: "button", class: "frame", "aria-label": `${title}: details`, click: onOpen }, picture);
  frame.style.aspectRatio = String(shape);
  if (matches.length && how !== "off") frame.append(matchOverlay(matches, how));
  const node = el("article", { class: "card", "data-id": image.id }, frame,
    el("button", { type: "button", class: "alike", title: "More like this", "aria-label": `More like ${title}`, click: onAlike },
      icon("alike"), el("span", {}, "More like this")));
  if (result) node.append(meter(result.score));
  node.append(el("div", { class: "about" }, el("span", { class: "name", title: `${title}\n${image.id}` }, title),
    result ? el("span", { class: "score", title: `Score, from 0 to 1\n${why(result).join("\n")}` }, result.score.toFixed(2)) : null));
  if (result) node.append(el("p", { class: "matches" }, matchWords(matches)));
  stretch(node, shape);
  return node;
}

const KINDS = { whole: "Whole picture", segment: "Things in it", tag: "Tags", position: "Place", title: "Title" };

/** How a score came about: what each comparison makes of it, from 0 to 1. */
export const why = (result) =>
  (result.score_parts || []).map(({ part, kind, calibrated, weight }) =>
    `${KINDS[kind] || kind}${part > 0 ? ` (part ${part + 1})` : ""}: ${weight < 0 ? "unwanted, " : ""}${calibrated.toFixed(2)}`);

export function skeletons(count) {
  return Array.from({ length: count }, (_, index) => {
    const shape = [1.33, 1, 0.75][index % 3];
    const node = el("div", { class: "skeleton", "aria-hidden": "true" });
    node.style.aspectRatio = String(shape);
    return stretch(node, shape);
  });
}

/** Tells the style sheet a picture's shape, by which it shares the width of a row. */
function stretch(node, shape) {
  node.style.setProperty("--shape", String(shape));
  return node;
}

/** A segment may answer several parts; it is drawn once. */
export function distinct(matches) {
  const seen = new Set();
  return matches.filter((match) => !seen.has(match.segment.index) && seen.add(match.segment.index));
}

function matchOverlay(matches, how) {
  const paths = matches.map((match) => segmentPath(match.segment, how));
  const drawing = overlay();
  drawing.append(veil(paths[0]));
  // The best one is drawn last, over the others.
  paths.map((path, rank) => outline(path, { second: rank > 0, hue: rank })).reverse().forEach((shape) => drawing.append(shape));
  return drawing;
}

function matchWords(matches) {
  return matches
    .map(({ segment, similarity }) => `${nameOf(segment)} ${similarity.toFixed(2)}`)
    .slice(0, 3)
    .join("  ·  ");
}

function meter(score) {
  const bar = el("i");
  bar.style.width = `${Math.round(Math.min(1, Math.max(0, score)) * 100)}%`;
  return el("div", { class: "meter", "aria-hidden": "true" }, bar);
}
