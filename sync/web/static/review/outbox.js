// Answers on their way to the server.
//
// An answer is written to the device before the next card is shown, and leaves it only when the server says that
// it is stored. Each has a key of its own, so two tabs never overwrite each other, and a uuid, so an answer that
// is sent twice counts once. Answers are filed under the person: another person's link on the same device leaves
// them alone.

import * as api from "./api.js";

const PREFIX = "groundswell-answer:";
const ASIDE = "groundswell-unreadable:"; // what stood under PREFIX and is no answer, kept for somebody who can read it
const MAX_BATCH = 20;
const FIRST_WAIT_S = 1;
const MAX_WAIT_S = 15;
const AFTER_FRAME_S = 0.03; // the next card is painted first

/** How many answers wait on this device, whoever gave them. */
export function allWaiting() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).length;
  } catch {
    return 0;
  }
}

/** The answer that a text holds, null when it holds none. */
function readAnswer(text) {
  try {
    const { uuid, card, at, ...more } = JSON.parse(text);
    if (typeof uuid !== "string" || typeof card !== "string") return null;
    return { uuid, card, ...more, at: Number(at) || 0 };
  } catch {
    return null;
  }
}

export class Outbox {
  /** `on` has the functions sent(reply, answers), refused(list), changed(), gone(error), and shown(): a card's id. */
  constructor(person, on) {
    this._prefix = `${PREFIX}${person}:`;
    this._on = on;
    this._waiting = new Map(); // uuid -> answer, oldest first
    this._tried = new Set(); // uuids that the server may have, though it did not say so
    this._timer = null;
    this._wait_s = FIRST_WAIT_S;
    this._flight = null;
    this.lost = ""; // why nothing can be sent now; empty while all is well
    this.unreadable = 0; // entries of this device that are no answers: put aside
    this.isKept = true; // whether the device keeps answers when the page is closed
    this._load();
    addEventListener("online", () => this.now());
    addEventListener("pagehide", () => this.now());
  }

  get size() {
    return this._waiting.size;
  }

  /** Cards whose answers wait here. */
  cards() {
    return [...this._waiting.values()].map((answer) => answer.card);
  }

  /** Keep an answer and send it as soon as may be. */
  put(answer) {
    this._waiting.set(answer.uuid, answer);
    try {
      localStorage.setItem(this._prefix + answer.uuid, JSON.stringify({ ...answer, at: Date.now() }));
    } catch {
      this.isKept = false; // private window or full: it still waits in this page
    }
    if (this.lost) this._on.changed();
    else if (!this._flight) this._later(AFTER_FRAME_S);
  }

  /** Take an answer back before it has left. False when the server has it or may have it. */
  async cancel(uuid) {
    if (this._flight) await this._flight;
    if (!this._waiting.has(uuid)) return false;
    if (this._tried.has(uuid)) throw new api.Away("This answer may have reached the server before the connection was lost.");
    this._forget(uuid);
    this._on.changed();
    return true;
  }

  /** Send what waits, now. */
  now() {
    clearTimeout(this._timer);
    if (!this._flight) this._flight = this._send().finally(() => (this._flight = null));
    return this._flight;
  }

  async _send() {
    while (this._waiting.size) {
      // after a failure ask with what the server may have already: what never left can still be taken back
      const all = [...this._waiting.values()];
      const tried = all.filter((answer) => this._tried.has(answer.uuid));
      const batch = (this.lost && tried.length ? tried : all).slice(0, MAX_BATCH);
      for (const answer of batch) this._tried.add(answer.uuid);
      let reply;
      try {
        reply = await api.send(batch.map(({ at, ...answer }) => answer), this._on.shown());
      } catch (error) {
        this._failed(error, batch);
        return;
      }
      const refused = reply.refused ?? [];
      for (const uuid of [...(reply.stored ?? []), ...refused.map((one) => one.uuid)]) this._forget(uuid);
      const open = batch.filter((answer) => this._waiting.has(answer.uuid));
      if (open.length === batch.length) {
        this._failed(new api.Away("The server did not say what became of the answers."), batch);
        return;
      }
      this.lost = "";
      this._wait_s = FIRST_WAIT_S;
      if (refused.length) this._on.refused(refused, batch);
      this._on.sent(reply, batch);
    }
    if (this.lost) {
      this.lost = "";
      this._on.changed();
    }
  }

  _failed(error, batch) {
    if (error instanceof api.Refused) {
      // one answer that the server cannot even read must not hold up the others
      if (batch.length === 1) {
        this._forget(batch[0].uuid);
        this._on.refused([{ uuid: batch[0].uuid, error: error.message, hint: error.hint }], batch);
        if (this._waiting.size) this._later(0.1);
        this._on.changed();
        return;
      }
      for (const answer of batch) this._tried.delete(answer.uuid);
      this._tried.add(batch[0].uuid);
      this.lost = error.message;
    } else if (error instanceof api.Gone) {
      this.lost = error.message;
      this._on.gone(error);
      return;
    } else {
      this.lost = error.message || "No connection to the server.";
    }
    this._later(error.after ?? this._wait_s);
    this._wait_s = Math.min(this._wait_s * 2, MAX_WAIT_S);
    this._on.changed();
  }

  _later(seconds) {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.now(), seconds * 1000);
  }

  _forget(uuid) {
    this._waiting.delete(uuid);
    this._tried.delete(uuid);
    try {
      localStorage.removeItem(this._prefix + uuid);
    } catch {
      this.isKept = false;
    }
  }

  _load() {
    const kept = [];
    try {
      for (const key of Object.keys(localStorage).filter((one) => one.startsWith(this._prefix))) {
        const text = localStorage.getItem(key);
        const answer = readAnswer(text);
        if (answer) kept.push(answer);
        else this._putAside(key, text);
      }
    } catch {
      this.isKept = false; // the browser lets nobody read or write
    }
    for (const answer of kept.sort((a, b) => a.at - b.at)) {
      this._waiting.set(answer.uuid, answer);
      this._tried.add(answer.uuid);
    }
  }

  /** Out of the way of the others, and of the count of what waits; never deleted before it is kept elsewhere. */
  _putAside(key, text) {
    localStorage.setItem(ASIDE + key.slice(PREFIX.length), text);
    localStorage.removeItem(key);
    this.unreadable += 1;
  }
}
