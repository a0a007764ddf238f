"""The regressor (normalisation, backbone, decoder) and its checkpoints.

pixel_model        what every model of pixels has
regressor          stored pixels in, metres out
class_model        stored pixels in, logits of classes out
make               a regressor that is not trained yet, from options
encoder            normalisation and backbone: tokens of tiles, some patches left out
normalise          the regressor's first layer
backbone           DINOv3: random, from a folder, a file or the hub
backbone_names     which names mean places, and which a model on the hub
hub                whether the hub has a model, asked once and briefly
no_backbone        no backbone, in the place of one
empty_backbone     DINOv3 without weights, to be filled
trainable          choice of the backbone's weights that learn; LoRA
frozen_backbone    a backbone that does not learn, rounded to 16 bits once, and its place
device_room        whether a device has room for a backbone's blocks
streamed           a backbone whose blocks are copied to the device one by one
checkpoint         folders of checkpoints: their files, read and checked
checkpoint_files   those files as bytes, from a model in memory
needed_shapes      whether weights are those of the model that config.json describes
foreign_folder     folders of transformers, looked at before they are read
verify_checkpoint  treeline verify of a checkpoint
trust              whether the code that a checkpoint names may be imported
height_checkpoint  a regressor as a folder
pretrained         a pre-trained backbone as a folder
tile_model         stored pixels in, a label for each tile out
tile_checkpoint    a model of tiles as a folder
class_checkpoint   a model of pixel classes as a folder
load_encoder       the encoder of any checkpoint
load_any           the model of a checkpoint of any task
class_attention    attention of the class token to the patches, in any layer
symmetries         the eight flips and quarter turns
meta_weights       Meta's own files as a backbone
notebook_weights   the notebook's checkpoints, renamed
chmv2              Meta's CHMv2 as a regressor
"""
