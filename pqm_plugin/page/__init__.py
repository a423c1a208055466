"""A local page in the browser: hear with and without one's adapter, read a few sentences, be known from then on."""
