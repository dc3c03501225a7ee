// Every button that takes something back.
import { send } from "./send.js";

for (const button of document.querySelectorAll("[data-undo]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { page } = await send("/api/undo", button.closest("[data-csrf]").dataset.csrf, { item: button.dataset.undo });
      location.assign(page);
    } catch (fault) {
      button.disabled = false;
      const message = document.querySelector("#message");
      if (message) message.textContent = fault.message;
    }
  });
}
