// Dialogs: the shortcuts, and all that is known of the chosen model, with the terms under which it may be used.

import { element } from "../dom.js";
import { described } from "./facts.js";

export function start(page, session) {
  for (const button of page.querySelectorAll("[data-opens]")) {
    const dialog = page.getElementById(button.dataset.opens);
    button.addEventListener("click", () => dialog.showModal());
  }
  page.querySelector("[data-opens=details]").addEventListener("click", () => fill(page, session));
}

async function fill(page, session) {
  const { model } = session;
  const rows = model ? described(model) : [];
  page
    .querySelector("dl.details")
    .replaceChildren(...rows.map(([name, said]) => element("div", {}, element("dt", {}, name), element("dd", {}, said))));
  const terms = page.querySelector(".terms");
  try {
    const told = await session.api.terms();
    const restrictions = told.models.find((one) => one.id === model?.id)?.restrictions;
    const texts = [told.clinical_use, restrictions, told.agreement].filter(Boolean);
    terms.replaceChildren(...texts.map((text) => element("p", {}, text)));
  } catch (error) {
    terms.textContent = error.message;
  }
}
