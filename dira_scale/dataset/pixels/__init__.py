"""Between an image's stored bytes and pixels: codecs, the headers that are checked first, and the crops' one filter."""
