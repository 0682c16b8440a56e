// The server's key, asked for only where the server does.

import { tell } from "../dom.js";

export function start(place, session) {
  const form = place.querySelector("form");
  const key = place.querySelector("input");
  const trouble = place.querySelector(".trouble");
  let tried = false;

  session.api.addEventListener("locked", () => {
    tell(trouble, tried ? "The server does not know this key." : null);
    place.hidden = false;
    key.focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tried = true;
    session.api.use(key.value.trim());
    key.value = "";
    place.hidden = true;
    session.dispatchEvent(new Event("unlocked"));
  });
}
