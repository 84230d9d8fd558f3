"""From a trained checkpoint to a verified folder that a phone or a microcontroller runs: fold, convert, verify, write.

`fold.py` calls `folding.fold_and_export`. `convert` alone imports TensorFlow. Prediction needs `manifest`, `flatbuffer`
and `interpret`, which import neither TensorFlow nor JAX.
"""
