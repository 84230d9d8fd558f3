// Hands on what the microphone hears, an eighth of a second at a time.
class Recorder extends AudioWorkletProcessor {
  #samples = new Float32Array(2048);
  #count = 0;

  process([[channel]]) {
    if (!channel) return true;
    this.#samples.set(channel, this.#count);
    this.#count += channel.length;
    if (this.#count === this.#samples.length) {
      this.port.postMessage(this.#samples.slice());
      this.#count = 0;
    }
    return true;
  }
}
registerProcessor('recorder', Recorder);
