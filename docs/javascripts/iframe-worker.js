// Browsers start no worker from a folder's files. The site's search then runs in a hidden frame of the page instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc =
        "<script>window.take = window.postMessage.bind(window);" +
        "window.postMessage = (said) => parent.postMessage(said, '*')</script>" +
        `<script src="${new URL(address, location.href)}"></script>`;
      this.frame = frame;
      this.ready = new Promise((loaded) => frame.addEventListener("load", loaded, { once: true }));
      window.addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      document.body.append(frame);
    }

    set onmessage(listener) {
      this.addEventListener("message", listener);
    }

    postMessage(said) {
      this.ready.then(() => this.frame.contentWindow.take(said, "*"));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
