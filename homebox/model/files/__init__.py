"""What files of models hold, checked: JSON, safetensors, numbers of 8 and 4 bits."""
