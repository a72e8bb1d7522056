"use strict";
(() => {
  const project = document.getElementById("make").dataset.project;
  const at = `/dashboard/${project}/preview`;
  const begin = document.getElementById("begin");
  const share = document.getElementById("share");
  const says = document.getElementById("says");
  let waiting = false;

  async function look() {
    let state;
    try {
      const reply = await fetch(`${at}.json`, { headers: { Accept: "application/json" }, cache: "no-store" });
      if (reply.status === 401 || reply.status === 403) { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); return; }
      state = await reply.json();
    } catch {
      says.textContent = "The server does not answer; trying again.";
      setTimeout(look, 3000);
      return;
    }
    if (state.now) {
      waiting = true;
      begin.disabled = true;
      share.hidden = false;
      share.value = state.share;
      says.textContent = state.line;
      setTimeout(look, 1000);
    } else if (waiting && !state.error) location.assign(at);
    else {
      waiting = false;
      begin.disabled = false;
      share.hidden = true;
      says.textContent = state.error;
    }
  }

  begin.addEventListener("click", async () => {
    begin.disabled = true;
    says.textContent = "";
    try {
      const reply = await fetch(at, { method: "POST", headers: { "Content-Type": "application/json", "X-Groundswell": "1" }, body: "{}" });
      if (!reply.ok) throw new Error(String(reply.status));
      waiting = true;
      look();
    } catch (error) {
      begin.disabled = false;
      says.textContent = `It could not be started (${error.message}). Is the server still there?`;
    }
  });
  look();
})();
