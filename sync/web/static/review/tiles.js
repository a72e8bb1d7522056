// The largest square tiles that fit: a sheet is seen at one look, without scrolling.

import { at } from "./make.js";

const GAP = 8;
const LEAST = 88; // smaller than this cannot be judged: the sheet scrolls instead

/** Columns and side (pixels) of n square tiles in a box of this width and height. */
export function bestFit(n, width, height) {
  const fits = Array.from({ length: n }, (_, i) => i + 1).map((columns) => {
    const rows = Math.ceil(n / columns);
    const side = Math.floor(Math.min((width - GAP * (columns - 1)) / columns, (height - GAP * (rows - 1)) / rows));
    return { columns, side, empty: rows * columns - n };
  });
  const largest = Math.max(...fits.map(({ side }) => side));
  const near = fits.filter(({ side }) => side >= 0.93 * largest); // of much the same size: the fullest rectangle
  const best = near.sort((a, b) => a.empty - b.empty || b.side - a.side)[0];
  if (best.side >= LEAST) return best;
  const columns = Math.max(1, Math.floor((width + GAP) / (LEAST + GAP)));
  return { columns, side: Math.floor((width - GAP * (columns - 1)) / columns) };
}

/** Fit the tiles of the sheet on screen. */
export function fitTiles() {
  const box = at("stage").querySelector(".tiles");
  if (!box) return;
  const { columns, side } = bestFit(box.childElementCount, box.clientWidth - 6, box.clientHeight - 6);
  box.style.setProperty("--columns", String(columns));
  box.style.setProperty("--tile", `${side}px`);
}

addEventListener("resize", fitTiles);
