/* Search without a server: browsers start no worker from a file on disk, so a hidden frame runs the worker's script. */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((resolve) => {
        this.frame.addEventListener("load", () => this.run(address, resolve), { once: true });
      });
      document.body.append(this.frame);
    }

    run(address, done) {
      const { contentDocument, contentWindow } = this.frame;
      contentWindow.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = contentDocument.createElement("script");
      script.src = new URL(address, location);
      script.addEventListener("load", done, { once: true });
      contentDocument.body.append(script);
    }

    async postMessage(data) {
      await this.ready;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
  };
  window.Worker = window.IFrameWorker; // the theme's script asks for a Worker and finds this one
}
