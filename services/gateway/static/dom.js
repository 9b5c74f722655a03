// Small helpers for building elements.

export const $ = (id) => document.getElementById(id);

/** An element; `attributes` whose value is a function are listeners, true ones stand alone, false ones are left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function icon(name) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  node.setAttribute("class", "icon");
  node.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  node.append(use);
  return node;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export const titleOf = (image) => image.title || image.source || image.id;

const words = (tags, most = 2) => tags.slice(0, most).map((tag) => tag.name).join(", ");

/** Whether a segment is likely one thing: what covers more than half of a picture is rather its background. */
export const isThing = (segment) => !(segment.area_fraction > 0.5);

/** A segment's own words, of which a background has none worth showing. */
export const nameOf = (segment, most = 1) => (isThing(segment) && words(segment.tags, most)) || `Region ${segment.index + 1}`;

export function bytes(count) {
  const size = Number(count);
  if (size < 1000) return `${size} bytes`;
  return size < 1e6 ? `${Math.round(size / 1000)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}
