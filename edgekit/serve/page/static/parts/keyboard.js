// Shortcuts, each with Alt, so that no letter that is typed does anything. The dialog "Keyboard" lists them.

const PLACES = { KeyQ: "question", KeyI: "file", KeyM: "model" };

export function start(page, session) {
  page.addEventListener("keydown", (event) => {
    if (!event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.code === "KeyN") session.startOver();
    else if (event.code in PLACES) go(page.getElementById(PLACES[event.code]));
    else return;
    event.preventDefault();
  });
}

function go(place) {
  if (place.closest("[hidden]")) return;
  place.focus();
  if (place.type === "file") place.click();
}
