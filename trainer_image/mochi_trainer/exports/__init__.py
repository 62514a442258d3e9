"""Files for other tools: LoRAs in two formats, weights in two layouts, merged weights, and the card beside each of them."""
