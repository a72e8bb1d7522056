// Touch and mouse on the card: swipes answer; on a zoomed picture a drag moves it; a long press shows a tile large.

import { pan } from "./look.js";

const SWIPE_PX = 60;
const LONG_MS = 450;
const WAYS = { left: "no", right: "yes", up: "unsure", down: "skip" };

/** `on` has zoom(): number, swipes(): boolean, answer(value), large(tile). */
export function watchGestures(stage, on) {
  let start = null;
  let shift = { x: 0, y: 0 };
  let timer = null;
  let pressed = null; // the tile that was shown large: the click that ends the press ticks nothing

  const end = () => {
    clearTimeout(timer);
    start = null;
    const hint = stage.querySelector(".crop");
    if (hint) {
      hint.style.transform = "";
      delete hint.dataset.swipe;
    }
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    pressed?.removeEventListener("click", swallow, true);
    pressed = null;
    const tile = event.target.closest(".tile");
    if (tile) {
      start = null;
      clearTimeout(timer);
      timer = setTimeout(() => {
        pressed = tile;
        tile.addEventListener("click", swallow, true);
        on.large(tile);
      }, LONG_MS);
      return;
    }
    const crop = event.target.closest(".crop");
    if (!crop) return;
    const drags = on.zoom() > 1;
    if (!drags && !(event.pointerType === "touch" && on.swipes())) return;
    start = { x: event.clientX, y: event.clientY, drags, crop, shift };
    crop.setPointerCapture(event.pointerId);
  });

  stage.addEventListener("pointermove", (event) => {
    if (!start) return;
    const dx = event.clientX - start.x;
    const dy = event.clientY - start.y;
    if (start.drags) {
      shift = bounded(start.shift.x + dx, start.shift.y + dy, start.crop, on.zoom());
      pan(shift.x, shift.y);
      return;
    }
    start.crop.style.transform = `translate(${dx / 2}px, ${dy / 2}px)`;
    start.crop.dataset.swipe = way(dx, dy) ?? "";
  });

  stage.addEventListener("pointerup", (event) => {
    const value = start && !start.drags ? way(event.clientX - start.x, event.clientY - start.y) : null;
    end();
    if (value) on.answer(value);
  });
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerout", (event) => {
    if (event.target.closest(".tile")) clearTimeout(timer);
  });
  stage.addEventListener("contextmenu", (event) => {
    if (event.target.closest(".tile")) event.preventDefault(); // a long press on Android
  });

  /** A new card is shown: its middle is seen first. */
  return function centre() {
    shift = { x: 0, y: 0 };
    pan(0, 0);
  };
}

function swallow(event) {
  event.preventDefault();
  event.stopPropagation();
}

function way(dx, dy) {
  if (Math.max(Math.abs(dx), Math.abs(dy)) < SWIPE_PX) return null;
  if (Math.abs(dx) > Math.abs(dy)) return dx > 0 ? WAYS.right : WAYS.left;
  return dy > 0 ? WAYS.down : WAYS.up;
}

function bounded(x, y, crop, zoom) {
  const most = (size) => (size * (zoom - 1)) / 2;
  const within = (value, limit) => Math.min(limit, Math.max(-limit, value));
  return { x: within(x, most(crop.clientWidth)), y: within(y, most(crop.clientHeight)) };
}
