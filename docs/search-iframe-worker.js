// Search in pages that were opened from a folder: browsers refuse workers there, so a hidden frame does the work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const url = new URL(address, document.baseURI).href;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.frame = frame;
      this.inner = frame.contentWindow;
      this.ready = new Promise((resolve) => { this.start = resolve; });
      addEventListener("message", (event) => {
        if (event.source !== this.inner) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
      this.inner.start = this.start;
      this.inner.document.open();
      this.inner.document.write(`<script>
        postMessage = (data) => parent.postMessage(data, "*");
        importScripts = (...urls) => urls.map((url) => () => new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = new URL(url, ${JSON.stringify(url)}).href;
          script.onload = resolve;
          script.onerror = reject;
          document.body.appendChild(script);
        })).reduce((before, load) => before.then(load), Promise.resolve());
      <\/script><script src=${JSON.stringify(url)} onload="start()"><\/script>`);
      this.inner.document.close();
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data, source: window })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
