// Keeps the page fresh: asks every few seconds while it is seen, and leaves the person's focus, press, selection and
// open details alone. The server sends only the regions that changed (llmkeys/dashboard/live.py).
"use strict";

(() => {
  const EVERY = 4000; // milliseconds
  const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";
  let pressed = false;
  let asking = false;

  const isSelecting = () => {
    const selection = document.getSelection();
    return Boolean(selection && !selection.isCollapsed && selection.toString().trim());
  };

  // Of #live, which its own answer exchanges: by then the event comes from the element around it.
  const isRefresh = (detail) => detail.requestConfig.elt.id === "live";

  function refresh() {
    if (document.visibilityState !== "visible" || asking || pressed || isSelecting()) return;
    window.htmx.trigger("#live", "refresh");
  }

  document.addEventListener("pointerdown", () => { pressed = true; }, true);
  for (const end of ["pointerup", "pointercancel", "dragend", "blur"]) {
    window.addEventListener(end, () => { setTimeout(() => { pressed = false; }, 0); }, true);
  }
  document.addEventListener("htmx:beforeRequest", ({ detail }) => { asking ||= isRefresh(detail); });
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (!isRefresh(detail)) return;
    asking = false;
    document.body.classList.toggle("stale", !detail.successful);
  });
  // A region that is exchanged keeps what was unfolded in it, how far it was scrolled, and the focus.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const before = event.detail.target.querySelectorAll("details");
    const after = event.detail.fragment.querySelectorAll("details");
    before.forEach((details, at) => { if (details.open && after[at]) after[at].open = true; });
    keepScroll(event.detail.target);
    keepFocus(event.detail.target);
  });

  // htmx gives the focus back to what has an id. Others are found by their link, for rows move, or else by their place.
  function keepFocus(region) {
    const before = document.activeElement;
    const at = [...region.querySelectorAll(FOCUSABLE)].indexOf(before);
    if (at < 0 || before.id) return;
    const link = before.getAttribute("href");
    document.addEventListener("htmx:oobAfterSwap", () => {
      const after = [...(document.getElementById(region.id)?.querySelectorAll(FOCUSABLE) ?? [])];
      const leadsThere = (one) => one?.getAttribute("href") === link;
      const same = leadsThere(after[at]) ? after[at] : link && after.find(leadsThere);
      (same || after[at])?.focus({ preventScroll: true });
    }, { once: true });
  }

  function keepScroll(region) {
    const places = [...region.querySelectorAll(".table-wrap")].map((box) => [box.scrollLeft, box.scrollTop]);
    if (!places.some(([left, top]) => left || top)) return;
    document.addEventListener("htmx:oobAfterSwap", () => {
      document.getElementById(region.id)?.querySelectorAll(".table-wrap").forEach((box, at) => {
        if (places[at]) [box.scrollLeft, box.scrollTop] = places[at];
      });
    }, { once: true });
  }

  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".needs-script").forEach((part) => { part.hidden = false; });
    setInterval(refresh, EVERY);
  });
})();
