// Decides on each window of a recording or of the microphone, with the waveform model. Nothing is sent anywhere.
import {loadAndCompile, loadLiteRt, Tensor} from './litert/core.js';

const $ = id => document.getElementById(id);
const say = text => { $('status').textContent = text; };
const percent = p => `${Math.round(100 * p)}\u00a0%`;
const joined = (a, b) => {
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
};
const best = probabilities => probabilities.indexOf(Math.max(...probabilities));

const WIDE = 48000;

let about, model;        // what model.json says: labels, rate, samples of a window, hop between windows, step of a frame
let session = 0;         // grows with each recording: what is still to be done for the one before is dropped
let stop = null;         // ends what the microphone hears, if it does
let asking = false;      // whether the browser asks if it may

// From `WIDE` samples per second to the model's rate, by a sinc in a Blackman window. On 60 clips of EMO-DB, at 48 kHz,
// probabilities are then within 0.003 of Python's; the resampler of Chromium moves them by up to 0.19.
class Decimator {
  #factor = WIDE / about.rate;
  #half = 64 * this.#factor;
  #taps = Float32Array.from({length: 2 * this.#half + 1}, (_, i) => {
    const t = i - this.#half, phase = Math.PI * t / this.#half, x = Math.PI * 0.957 * t / this.#factor;
    return (0.42 + 0.5 * Math.cos(phase) + 0.08 * Math.cos(2 * phase)) * (t ? Math.sin(x) / x : 1) * 0.957 / this.#factor;
  });
  #kept = new Float32Array(this.#half);

  feed(samples) {
    const all = joined(this.#kept, samples);
    const found = new Float32Array(Math.max(0, Math.floor((all.length - this.#taps.length) / this.#factor) + 1));
    for (let n = 0; n < found.length; n++) {
      let sum = 0;
      for (let i = 0, from = n * this.#factor; i < this.#taps.length; i++) sum += this.#taps[i] * all[from + i];
      found[n] = sum;
    }
    this.#kept = all.slice(found.length * this.#factor);
    return found;
  }

  finish() { return this.feed(new Float32Array(this.#half)); }
}

// Windows of a stream, cut as Python cuts them: the last one is moved back, by whole frames, to end with the stream.
class Windows {
  #kept = new Float32Array(0);  // samples from #first on
  #first = 0;
  #next = 0;

  *feed(samples) {
    const kept = this.#kept.subarray(Math.max(0, Math.min(this.#next - about.hop - this.#first, this.#kept.length)));
    this.#first += this.#kept.length - kept.length;
    this.#kept = joined(kept, samples);
    for (; this.#next + about.samples <= this.end; this.#next += about.hop) yield this.#cut(this.#next);
  }

  *finish() {
    const last = about.step * Math.max(0, Math.floor((this.end - about.samples) / about.step));
    if (this.end && (!this.#next || last > this.#next - about.hop)) yield this.#cut(last);
  }

  get end() { return this.#first + this.#kept.length; }

  #cut(start) {
    const from = start - this.#first;
    const samples = this.#kept.subarray(from, from + about.samples);
    return {start: start / about.rate, end: (start + samples.length) / about.rate, samples};
  }
}

async function decide(samples) {
  const pcm = new Float32Array(about.samples);  // a shorter recording is filled up with zeros
  // In steps of int16, as Python reads a recording.
  samples.forEach((x, i) => { pcm[i] = Math.max(-32768, Math.min(32767, Math.round(32768 * x))) / 32768; });
  const input = new Tensor(pcm, [1, pcm.length]);
  const [output] = await model.run(input);
  const probabilities = [...output.toTypedArray()];
  input.delete();
  output.delete();
  return probabilities;
}

function show({start, end}, probabilities) {
  const time = `${start.toFixed(1)} to ${end.toFixed(1)} s`;
  const spoken = probabilities.some(p => p > 0), top = best(probabilities);
  $('times').append(Object.assign(document.createElement('th'), {scope: 'col', textContent: time.replace(' to ', '–')}));
  for (const [i, row] of [...$('rows').rows].entries()) {
    if (!spoken && i) break;
    const cell = row.insertCell();
    if (!spoken) {
      Object.assign(cell, {rowSpan: about.labels.length, className: 'none', textContent: 'no speech'});
      break;
    }
    cell.style.setProperty('--p', probabilities[i]);
    cell.classList.toggle('top', i === top);
    cell.append(Object.assign(document.createElement('data'), {value: probabilities[i], textContent: percent(probabilities[i])}));
  }
  $('found').hidden = false;
  $('scroll').scrollLeft = $('scroll').scrollWidth;
  say(`${time}: ${spoken ? `${about.labels[top]}, ${percent(probabilities[top])}` : 'no speech'}`);
}

// Starts a recording: `feed` takes its samples, `finish` decides on what no window held, and sums up.
function begin() {
  const mine = ++session, windows = new Windows(), spoken = [];
  let count = 0, work = Promise.resolve();
  $('found').hidden = true;
  $('times').replaceChildren(document.createElement('td'));
  $('rows').replaceChildren(...about.labels.map(label => {
    const row = document.createElement('tr');
    row.append(Object.assign(document.createElement('th'), {scope: 'row', textContent: label}));
    return row;
  }));
  const take = found => work = work.then(async () => {
    for (const window of found) {
      await new Promise(resolve => setTimeout(resolve));  // the page answers between two windows
      if (mine !== session) return;
      const probabilities = await decide(window.samples);
      if (mine !== session) return;
      show(window, probabilities);
      count += 1;
      if (probabilities.some(p => p > 0)) spoken.push(probabilities);
    }
  }).catch(fail);
  return {
    feed: samples => take(windows.feed(samples)),
    finish: async name => {
      await take(windows.finish());
      if (mine !== session) return;
      const mean = about.labels.map((_, i) => spoken.reduce((sum, p) => sum + p[i], 0) / spoken.length);
      const what = spoken.length ? `on average ${about.labels[best(mean)]}, ${percent(Math.max(...mean))}` : 'no speech';
      say(`${name}: ${what} (windows with speech: ${spoken.length} of ${count})`);
    },
  };
}

// Samples per second of a WAV or FLAC file; 0 for others, whose headers say it elsewhere.
function rateOf(header) {
  if (header.byteLength < 44) return 0;
  const kind = header.getUint32(0);
  return kind === 0x52494646 ? header.getUint32(24, true) : kind === 0x664c6143 ? header.getUint32(18) >>> 12 : 0;
}

async function hearFile(file) {
  await stop?.();
  const recording = begin();
  say(`Reading ${file.name} …`);
  const bytes = await file.arrayBuffer(), exact = rateOf(new DataView(bytes)) === about.rate;
  const decoder = new OfflineAudioContext(1, 1, exact ? about.rate : WIDE);  // resamples what it decodes
  const audio = await decoder.decodeAudioData(bytes).catch(() => {
    throw new Error(`${file.name}: expected audio that this browser decodes, found something else`);
  });
  const channels = Array.from({length: audio.numberOfChannels}, (_, i) => audio.getChannelData(i));
  const mono = channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
  if (exact) {
    // Chromium divides positive samples of 16 bits by 32767, negative ones by 32768.
    const uneven = mono.every(x => x <= 0 || Math.abs(32767 * x - Math.round(32767 * x)) < 0.01);
    recording.feed(uneven ? mono.map(x => (x > 0 ? x * 32767 / 32768 : x)) : mono);
  } else {
    const decimator = new Decimator();
    recording.feed(joined(decimator.feed(mono), decimator.finish()));
  }
  await recording.finish(file.name);
}

async function hearMicrophone() {
  const raw = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};  // as trained
  const stream = await navigator.mediaDevices.getUserMedia({audio: raw}).catch(error => {
    throw new Error(`No microphone: ${error.message}`);
  });
  const recording = begin(), decimator = new Decimator(), context = new AudioContext({sampleRate: WIDE});
  stop = async () => {
    stop = null;
    stream.getTracks().forEach(track => track.stop());
    await context.close();
    $('microphone').textContent = 'Start microphone';
    await recording.finish('Microphone');
  };
  $('microphone').textContent = 'Stop microphone';
  say('Listening; the first decision comes after four seconds …');
  await context.audioWorklet.addModule('recorder.js');
  const recorder = new AudioWorkletNode(context, 'recorder', {channelCount: 1, channelCountMode: 'explicit', numberOfOutputs: 0});
  recorder.port.onmessage = ({data}) => recording.feed(decimator.feed(data));
  context.createMediaStreamSource(stream).connect(recorder);
}

async function fail(error) {
  await stop?.();
  say(error.message);
}

try {
  about = await (await fetch('model.json')).json();
  await loadLiteRt('litert/');
  model = await loadAndCompile('model.tflite', {accelerator: 'wasm'});
  $('microphone').onclick = async () => {
    if (asking) return;
    asking = true;
    await (stop ? stop() : hearMicrophone()).catch(fail);
    asking = false;
  };
  $('file').onchange = ({target}) => target.files.length && hearFile(target.files[0]).catch(fail);
  $('microphone').disabled = $('file').disabled = false;
  say('Ready');
} catch (error) {
  say(`The model does not load: ${error.message}`);
}
