// Every button that takes something back.
import { send } from "./send.js";

for (const button of document.querySelectorAll("[data-undo]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const csrf = button.closest("[data-csrf]").dataset.csrf;
      const { page } = await send("/api/undo", csrf, { item: button.dataset.undo });
      location.assign(page);
    } catch (fault) {
      button.disabled = false;
      const message = document.querySelector("#message");
      if (message) message.textContent = fault.message;
    }
  });
}
