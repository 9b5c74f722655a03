// What is looked for, as far as it can stand in the page's address.

// In "title" the words are looked for in titles, beside what a picture shows where there is one.
const MODES = ["hybrid", "whole", "segment", "tags", "title"];

export const fresh = () => ({ collection: "", text: "", mode: "hybrid", tags: [], topK: 24, picture: null, region: null });

/** Reads the address. A picture in it is a stored image's id or an address; an uploaded one can not be linked. */
export function fromAddress(search) {
  const query = new URLSearchParams(search);
  const state = fresh();
  state.collection = query.get("c") || "";
  state.text = query.get("q") || "";
  if (MODES.includes(query.get("mode"))) state.mode = query.get("mode");
  state.tags = query.getAll("tag");
  if (Number(query.get("k")) > 0) state.topK = Math.min(100, Math.trunc(Number(query.get("k"))));
  if (query.get("like")) state.picture = { kind: "stored", id: query.get("like") };
  else if (query.get("url")) state.picture = { kind: "address", address: query.get("url") };
  if (state.picture?.kind === "stored") state.region = regionFrom(query);
  return state;
}

function regionFrom(query) {
  const numbers = (name) => (query.get(name) || "").split(",").map(Number);
  const box = numbers("box");
  const point = numbers("at");
  if (query.has("seg")) return { segment: Number(query.get("seg")) };
  if (box.length === 4 && box.every(Number.isFinite)) return { box: { x0: box[0], y0: box[1], x1: box[2], y1: box[3] } };
  if (point.length === 2 && point.every(Number.isFinite)) return { point: { x: point[0], y: point[1] } };
  return null;
}

export function toAddress(state) {
  const query = new URLSearchParams();
  if (state.text) query.set("q", state.text);
  if (state.collection) query.set("c", state.collection);
  if (state.mode !== "hybrid") query.set("mode", state.mode);
  for (const tag of state.tags) query.append("tag", tag);
  if (state.topK !== 24) query.set("k", state.topK);
  if (state.picture?.kind === "address") query.set("url", state.picture.address);
  if (state.picture?.kind === "stored") {
    query.set("like", state.picture.id);
    const { segment, box, point } = state.region || {};
    const short = (...values) => values.map((value) => Number(value.toFixed(4))).join(",");
    if (segment !== undefined) query.set("seg", segment);
    if (box) query.set("box", short(box.x0, box.y0, box.x1, box.y1));
    if (point) query.set("at", short(point.x, point.y));
  }
  const text = query.toString();
  return text ? `?${text}` : "/";
}

export const isQuery = (state) => Boolean(state.text || state.picture);

/** The search request, and the files that its parts need. */
export function toRequest(state, { pageToken = "", masks = true } = {}) {
  const parts = [];
  const files = {};
  const titles = state.mode === "title";
  if (state.text && !titles) parts.push({ text: state.text });
  if (state.picture) parts.push(picturePart(state, parts.length, files));
  const request = {
    parts,
    title_text: titles ? state.text : "",
    mode: `SEARCH_MODE_${titles ? "HYBRID" : state.mode.toUpperCase()}`,
    top_k: state.topK,
    page_token: pageToken,
    include_masks: masks,
    explain: true,
  };
  if (state.tags.length) request.filter = tagFilter(state.tags);
  return { request, files };
}

export const tagFilter = (tags) => ({ tags: { names: tags, all: true } });

function picturePart({ picture, region }, index, files) {
  if (picture.kind === "address") return { image_url: picture.address };
  if (!region) {
    if (picture.kind === "stored") return { image_id: picture.id };
    files[`parts.${index}.image`] = picture.file;
    return {};
  }
  const part = { region: {} };
  if (picture.kind === "stored") part.region.image_id = picture.id;
  else files[`parts.${index}.region.image`] = picture.file;
  if (region.box) part.region.box = region.box;
  else if (region.point) part.region.points = [region.point];
  else part.region.segment_index = region.segment;
  return part;
}
