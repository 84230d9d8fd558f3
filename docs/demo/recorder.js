// Hands on what the microphone hears, some samples at a time.
class Recorder extends AudioWorkletProcessor {
  #samples = new Float32Array(4096);
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
