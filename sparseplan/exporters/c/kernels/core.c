/* Elements of views. */

static inline float sp_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float sp_from_bf16(uint16_t h) {
    return sp_bits((uint32_t)h << 16);
}

/* Rounded to nearest even. */
static inline uint16_t sp_to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float sp_from_fp16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
    float x;
    if (e == 31) return sp_bits(sign | 0x7f800000u | (m << 13));
    if (e) return sp_bits(sign | ((e + 112u) << 23) | (m << 13));
    x = (float)m * 5.9604644775390625e-8f;
    return sign ? -x : x;
}

/* Rounded to nearest even; beyond the range lies infinity. */
static inline uint16_t sp_to_fp16(float x) {
    uint32_t u, sign, a, h, rest, half;
    memcpy(&u, &x, 4);
    sign = (u >> 16) & 0x8000u;
    a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (a < 0x33000000u) return (uint16_t)sign;
    if (a < 0x38800000u) { /* subnormal */
        uint32_t m = (a & 0x7fffffu) | 0x800000u, shift = 126u - (a >> 23);
        half = 1u << (shift - 1u);
        rest = m & ((half << 1) - 1u);
        h = m >> shift;
    } else {
        a -= 0x38000000u;
        half = 0x1000u;
        rest = a & 0x1fffu;
        h = a >> 13;
    }
    if (rest > half || (rest == half && (h & 1u))) h++;
    return (uint16_t)(sign | h);
}

static inline float sp_load(uint32_t type, const uint8_t *p, uint32_t i, float scale) {
    switch (type) {
        case SP_FP32: {
            float x;
            memcpy(&x, p + 4u * i, 4);
            return x;
        }
        case SP_BF16: {
            uint16_t h;
            memcpy(&h, p + 2u * i, 2);
            return sp_from_bf16(h);
        }
        case SP_FP16: {
            uint16_t h;
            memcpy(&h, p + 2u * i, 2);
            return sp_from_fp16(h);
        }
        case SP_INT8: return (float)(int8_t)p[i] * scale;
        case SP_U8: return (float)p[i];
        case SP_CODES: return ((float)p[i] - 128.0f) * scale;
        case SP_BIT: return (float)((p[i >> 3] >> (7u - (i & 7u))) & 1u);
        default: {
            int32_t x;
            memcpy(&x, p + 4u * i, 4);
            return (float)x;
        }
    }
}

static inline void sp_store(uint32_t type, uint8_t *p, uint32_t i, float scale, float x) {
    switch (type) {
        case SP_FP32: memcpy(p + 4u * i, &x, 4); break;
        case SP_BF16: {
            uint16_t h = sp_to_bf16(x);
            memcpy(p + 2u * i, &h, 2);
            break;
        }
        case SP_FP16: {
            uint16_t h = sp_to_fp16(x);
            memcpy(p + 2u * i, &h, 2);
            break;
        }
        case SP_INT8: {
            float q = x == x ? rintf(x / scale) : 0.0f;
            p[i] = (uint8_t)(int8_t)(q < -128.0f ? -128.0f : q > 127.0f ? 127.0f : q);
            break;
        }
        case SP_BIT: {
            uint8_t one = (uint8_t)(0x80u >> (i & 7u));
            p[i >> 3] = (uint8_t)(x != 0.0f ? p[i >> 3] | one : p[i >> 3] & (uint8_t)~one);
            break;
        }
        case SP_I32: {
            int32_t n = (int32_t)x;
            memcpy(p + 4u * i, &n, 4);
            break;
        }
        default: p[i] = (uint8_t)x; break;
    }
}

/* Types that are not the plan's own. */
static float sp_load_other(uint32_t type, const uint8_t *p, uint32_t i, float scale) {
    return sp_load(type, p, i, scale);
}

static void sp_store_other(uint32_t type, uint8_t *p, uint32_t i, float scale, float x) {
    sp_store(type, p, i, scale, x);
}

/* Element k of a run, as kernels see it: a float, or the number that an integer is. */
static inline float sp_ld(const sp_view *v, const sp_seg *s, uint32_t k) {
#if SP_HOLES
    if (!s->p) return 0.0f;
#endif
    if (v->type == SP_MAIN) return sp_load(SP_MAIN, s->p, s->at + k, s->scale);
    return sp_load_other(v->type, s->p, s->at + k, s->scale);
}

/* Store (or add to) element k of a run of a view that is written: such lie in arenas. */
static inline void sp_st(const sp_view *v, const sp_seg *s, uint32_t k, float x) {
    if (v->add) x = sp_ld(v, s, k) + x;
    if (v->type == SP_MAIN) sp_store(SP_MAIN, (uint8_t *)s->p, s->at + k, s->scale, x);
    else sp_store_other(v->type, (uint8_t *)s->p, s->at + k, s->scale, x);
}

/* The run of elements that begins at element i of sample b; i counts the whole array. */
static sp_seg sp_find(const sp_view *v, uint32_t b, uint32_t i) {
    uint32_t plane = v->height * v->width, c = i / plane, y = (i - c * plane) / v->width, x = i % v->width, k;
    sp_seg s;
    s.p = 0;
    s.at = 0;
    s.run = v->width - x;
    s.scale = v->scale;
    for (k = 0; k < v->parts; k++) {
        const sp_part *p = &sp_parts[v->part + k];
        uint32_t rows = p->r1 - p->r0, channels = p->c1 - p->c0;
        if (c < p->c0 || c >= p->c1 || y < p->r0 || y >= p->r1) continue;
        s.p = sp_base(p->level) + p->offset;
        s.at = v->batch * b * (channels * rows * v->width);
        if (p->by_row) {
            s.at += ((y - p->r0) * channels + (c - p->c0)) * v->width + x;
        } else {
            s.at += ((c - p->c0) * rows + (y - p->r0)) * v->width + x;
            s.run = rows == v->height ? p->c1 * plane - i : (p->r1 - y) * v->width - x;
        }
        break;
    }
    return s;
}

static inline sp_seg sp_at(const sp_view *v, uint32_t b, uint32_t i) {
    sp_seg s;
    if (v->whole) {
        const sp_part *p = &sp_parts[v->part];
        s.p = sp_base(p->level) + p->offset;
        s.at = v->batch * b * v->count + i;
        s.run = v->count - i;
        s.scale = v->scale;
    } else {
        s = sp_find(v, b, i);
    }
#if SP_PACKED
    if (v->type == SP_CODES) {
        const sp_view *scales = &sp_views[v->scales];
        uint32_t c = i / v->group, left = v->group - i % v->group;
        sp_seg q = sp_find(scales, 0, c);
        s.scale = sp_ld(scales, &q, 0);
        if (s.run > left) s.run = left;
    }
#endif
    return s;
}

static inline float sp_get(const sp_view *v, uint32_t b, uint32_t i) {
    sp_seg s = sp_at(v, b, i);
    return sp_ld(v, &s, 0);
}

static inline void sp_put(const sp_view *v, uint32_t b, uint32_t i, float x) {
    sp_seg s = sp_at(v, b, i);
    sp_st(v, &s, 0, x);
}

static inline uint32_t sp_min(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Ranges of elements that a view which is written has, one after the other: their number, and one of them. */
static uint32_t sp_ranges(const sp_view *w) {
    const sp_part *p = &sp_parts[w->part];
    return p->by_row || p->r1 - p->r0 != w->height ? (p->c1 - p->c0) * (p->r1 - p->r0) : 1u;
}

static uint32_t sp_range(const sp_view *w, uint32_t k, uint32_t *n) {
    const sp_part *p = &sp_parts[w->part];
    uint32_t rows = p->r1 - p->r0;
    if (p->by_row || rows != w->height) {
        *n = w->width;
        return ((p->c0 + k / rows) * w->height + p->r0 + k % rows) * w->width;
    }
    *n = (p->c1 - p->c0) * w->height * w->width;
    return p->c0 * w->height * w->width;
}

/* Samples of a view that is read or written in batches. */
#define SP_EACH_RANGE(w, b, k) for (b = 0; b < SP_BATCH; b++) for (k = 0; k < sp_ranges(w); k++)

/* Index of what is read for element i of an array that extents of 1 are spread over. */
static uint32_t sp_spread(uint32_t i, uint32_t rank, const int32_t *out, const int32_t *in) {
    uint32_t j = 0, stride = 1;
    while (rank--) {
        uint32_t n = (uint32_t)out[rank], m = (uint32_t)in[rank];
        if (m > 1) j += i % n * stride;
        i /= n;
        stride *= m;
    }
    return j;
}
