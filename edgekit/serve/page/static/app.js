// Starts the page: each part is a module with `start(place, session)`, where place is the element that names it in
// `data-part`. A new part is a file, its element, and a line here.

import { Api } from "./api.js";
import { Session } from "./session.js";
import * as access from "./parts/access.js";
import * as chat from "./parts/chat.js";
import * as dialogs from "./parts/dialogs.js";
import * as facts from "./parts/facts.js";
import * as image from "./parts/image.js";
import * as keyboard from "./parts/keyboard.js";
import * as labels from "./parts/labels.js";
import * as models from "./parts/models.js";
import * as tabs from "./parts/tabs.js";

const session = new Session(new Api());
const parts = { access, chat, facts, image, labels, models, tabs };
for (const [name, part] of Object.entries(parts)) part.start(document.querySelector(`[data-part=${name}]`), session);
dialogs.start(document, session);
keyboard.start(document, session);

document.getElementById("start-over").addEventListener("click", () => session.startOver());
// The browser may keep a page that was left, to show it again when somebody goes back.
addEventListener("pagehide", () => {
  session.startOver();
  session.api.use(null);
});
