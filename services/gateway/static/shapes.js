// Masks and boxes -> SVG. Every shape lies in a picture of 1000 x 1000 units, which its overlay stretches.

export const UNITS = 1000;
const SVG = "http://www.w3.org/2000/svg";
// Outlines are for the eye: finer ones cost time and show nothing.
const TRACE_SIDE = 256;
const ROUNDING = 12;
// As many as the style sheet names.
const HUES = 8;

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function overlay() {
  return svg("svg", {
    class: "overlay", viewBox: `0 0 ${UNITS} ${UNITS}`, preserveAspectRatio: "none", "aria-hidden": "true",
  });
}

const round = (value) => Math.round(value * UNITS * 10) / 10;

export function boxPath({ x0, y0, x1, y1 }) {
  return `M${round(x0)} ${round(y0)}H${round(x1)}V${round(y1)}H${round(x0)}Z`;
}

/** The outline of a segment: its mask's where it has one and `how` is "shape", else its box's. */
export function segmentPath(segment, how = "shape") {
  return (how === "shape" && segment.mask && maskPath(segment.mask)) || boxPath(segment.box);
}

const traced = new WeakMap();

/** A run-length mask (down the columns, zeros first) as a path around it; empty if nothing is in it. */
export function maskPath(mask) {
  if (!traced.has(mask)) traced.set(mask, trace(mask));
  return traced.get(mask);
}

function trace(mask) {
  const { grid, width, height } = sampled(mask);
  return loops(grid, width, height)
    .map((loop) => simplified(midpoints(loop), 0.6))
    .filter((loop) => loop.length > 2)
    .map((loop) => curve(loop.map(([x, y]) => [round(x / width), round(y / height)])))
    .join("");
}

/** Middles of a closed loop's edges: they cut the corners of the cells' stairs. */
function midpoints(loop) {
  return loop.map(([x, y], index) => {
    const [nextX, nextY] = loop[(index + 1) % loop.length];
    return [(x + nextX) / 2, (y + nextY) / 2];
  });
}

/** A closed line whose corners are rounded, none by more than a little: a picture's own corners stay. */
function curve(loop) {
  const steps = loop.map((corner, index) => {
    const before = toward(corner, loop[(index + loop.length - 1) % loop.length]);
    const after = toward(corner, loop[(index + 1) % loop.length]);
    return `${before.join(" ")}Q${corner.join(" ")} ${after.join(" ")}`;
  });
  return `M${steps.join("L")}Z`;
}

/** From a corner half the way to its neighbour, at most `ROUNDING`. */
function toward([x, y], [otherX, otherY]) {
  const share = Math.min(0.5, ROUNDING / (Math.hypot(otherX - x, otherY - y) || 1));
  return [Math.round((x + (otherX - x) * share) * 10) / 10, Math.round((y + (otherY - y) * share) * 10) / 10];
}

function sampled({ width, height, counts }) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / TRACE_SIDE));
  const across = Math.ceil(width / step);
  const down = Math.ceil(height / step);
  const grid = new Uint8Array(across * down);
  let start = 0;
  counts.forEach((count, index) => {
    const end = start + count;
    if (index % 2) {
      for (let column = Math.floor(start / height); column * height < end; column += 1) {
        if (column % step) continue;
        const top = Math.max(0, start - column * height);
        const bottom = Math.min(height, end - column * height);
        for (let row = Math.ceil(top / step); row * step < bottom; row += 1) grid[row * across + column / step] = 1;
      }
    }
    start = end;
  });
  return { grid, width: across, height: down };
}

/** Closed loops along the edges between cells in and out of the mask, the mask always on the right hand. */
function loops(grid, width, height) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && grid[y * width + x] === 1;
  const next = new Map();
  const key = (x, y) => y * (width + 1) + x;
  const edge = (x0, y0, x1, y1) => {
    const from = key(x0, y0);
    if (!next.has(from)) next.set(from, []);
    next.get(from).push([x1, y1]);
  };
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!inside(x, y)) continue;
      if (!inside(x, y - 1)) edge(x, y, x + 1, y);
      if (!inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!inside(x, y + 1)) edge(x + 1, y + 1, x, y + 1);
      if (!inside(x - 1, y)) edge(x, y + 1, x, y);
    }
  }
  const found = [];
  for (const [start, ends] of next) {
    while (ends.length) {
      const loop = [[start % (width + 1), Math.floor(start / (width + 1))]];
      let point = ends.pop();
      while (key(...point) !== start) {
        loop.push(point);
        point = next.get(key(...point)).pop();
      }
      found.push(loop);
    }
  }
  return found;
}

/** Douglas and Peucker's simplification of a closed loop; `slack` is in cells. */
function simplified(loop, slack) {
  const half = Math.floor(loop.length / 2);
  const first = thinned(loop.slice(0, half + 1), slack);
  const second = thinned([...loop.slice(half), loop[0]], slack);
  return [...first.slice(0, -1), ...second.slice(0, -1)];
}

function thinned(points, slack) {
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const open = [[0, points.length - 1]];
  while (open.length) {
    const [from, to] = open.pop();
    const [ax, ay] = points[from];
    const [bx, by] = points[to];
    const length = Math.hypot(bx - ax, by - ay) || 1;
    let worst = slack;
    let split = -1;
    for (let index = from + 1; index < to; index += 1) {
      const [x, y] = points[index];
      const away = Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length;
      if (away > worst) [worst, split] = [away, index];
    }
    if (split > 0) {
      keep[split] = 1;
      open.push([from, split], [split, to]);
    }
  }
  return points.filter((_, index) => keep[index]);
}

/** A veil over all but the shape. */
export function veil(path) {
  return svg("path", { class: "veil", d: `M0 0H${UNITS}V${UNITS}H0Z${path}` });
}

/** The shape's outline, readable on any ground; outlines of other hues can be told apart where they touch. */
export function outline(path, { second = false, hue = 0 } = {}) {
  const name = `${second ? "second" : "first"} hue-${hue % HUES}`;
  return svg("g", { class: name }, svg("path", { class: "halo", d: path }), svg("path", { class: "line", d: path }));
}
