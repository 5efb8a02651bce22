// Keeps the page fresh: asks every few seconds while it is seen, and leaves the person's focus, press, selection and
// open details alone. The server sends only the regions that changed (llmkeys/dashboard/live.py).
"use strict";

(() => {
  const EVERY = 4000; // milliseconds
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
  // A region that is exchanged keeps what was unfolded in it, and how far it was scrolled.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const before = event.detail.target.querySelectorAll("details");
    const after = event.detail.fragment.querySelectorAll("details");
    before.forEach((details, at) => { if (details.open && after[at]) after[at].open = true; });
    keepScroll(event.detail.target);
  });

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
