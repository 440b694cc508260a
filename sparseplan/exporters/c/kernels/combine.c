/* Ops of several inputs. */

/* y = x0 + x1 + ...; n: rank, extents of y, of x0, of x1 ... */
static void sp_add(const sp_args *a) {
    const sp_view *w = &sp_views[a->w[0]];
    uint32_t b, k, j, q, rank = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            float total = 0.0f;
            for (q = 0; q < a->reads; q++) {
                uint32_t at = sp_spread(i + j, rank, a->n + 1, a->n + 1 + (q + 1) * rank);
                float x = sp_get(&sp_views[a->r[q]], b, at);
                total = q ? total + x : x;
            }
            sp_put(w, b, i + j, total);
        }
    }
}

static float sp_f_plus(float x, float y, const float *p) {
    (void)p;
    return x + y;
}

/* y = f(x0, x1); n: rank, extents of y, of x0, of x1 */
static void sp_binary(const sp_args *a, sp_f2 f) {
    const sp_view *x = &sp_views[a->r[0]], *z = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, rank = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            uint32_t p = sp_spread(i + j, rank, a->n + 1, a->n + 1 + rank);
            uint32_t q = sp_spread(i + j, rank, a->n + 1, a->n + 1 + 2 * rank);
            sp_put(w, b, i + j, f(sp_get(x, b, p), sp_get(z, b, q), a->f));
        }
    }
}

static float sp_f_times(float x, float y, const float *p) {
    (void)p;
    return x * y;
}

/* Gradient of what may have been spread: the sum, over the elements of y that an element was read for, of f(dy, what
   r[1] and r[2] hold there). n: whether it is a parameter, rank, extents of y, of what is written, of r[1], of r[2]. */
static void sp_spread_grad(const sp_args *a, sp_f3 f) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t rank = (uint32_t)a->n[1], q, b, k, j, t, d, r, last, times = 1;
    const int32_t *out = a->n + 2, *in = out + rank;
    for (d = 0; d < rank; d++)
        if (in[d] != out[d]) times *= (uint32_t)out[d];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        for (b = 0; b < (a->n[0] ? 1u : SP_BATCH); b++)
            for (k = 0; k < sp_ranges(w); k++) {
                uint32_t n, i = sp_range(w, k, &n), s;
                last = a->n[0] ? SP_BATCH : b + 1u;
                for (j = 0; j < n; j++) {
                    float total = 0.0f;
                    for (s = b; s < last; s++)
                        for (t = 0; t < times; t++) {
                            uint32_t e = i + j, u = t, at = 0, stride = 1;
                            float z[2] = {0.0f, 0.0f};
                            for (d = rank; d--;) {
                                uint32_t m = (uint32_t)out[d];
                                if (in[d] == out[d]) {
                                    at += e % m * stride;
                                    e /= m;
                                } else {
                                    at += u % m * stride;
                                    u /= m;
                                }
                                stride *= m;
                            }
                            for (r = 1; r < a->reads; r++)
                                z[r - 1] = sp_get(&sp_views[a->r[r]], s, sp_spread(at, rank, out, in + r * rank));
                            total += f(sp_get(dy, s, at), z[0], z[1], a->f);
                        }
                    sp_put(w, b, i + j, total);
                }
            }
    }
}

static float sp_g_first(float dy, float x, float z, const float *p) {
    (void)x;
    (void)z;
    (void)p;
    return dy;
}

static float sp_g_times(float dy, float x, float z, const float *p) {
    (void)z;
    (void)p;
    return dy * x;
}

static float sp_f_minus(float x, float y, const float *p) {
    (void)p;
    return x - y;
}

static float sp_f_over(float x, float y, const float *p) {
    (void)p;
    return x / y;
}

static float sp_f_larger(float x, float y, const float *p) {
    (void)p;
    return x >= y ? x : y;
}

static float sp_f_smaller(float x, float y, const float *p) {
    (void)p;
    return x <= y ? x : y;
}

static float sp_f_larger_first(float x, float y, const float *p) {
    (void)p;
    return x >= y ? 1.0f : 0.0f;
}

static float sp_f_larger_second(float x, float y, const float *p) {
    (void)p;
    return x >= y ? 0.0f : 1.0f;
}

static float sp_f_smaller_first(float x, float y, const float *p) {
    (void)p;
    return x <= y ? 1.0f : 0.0f;
}

static float sp_f_smaller_second(float x, float y, const float *p) {
    (void)p;
    return x <= y ? 0.0f : 1.0f;
}

static float sp_g_minus(float dy, float x, float z, const float *p) {
    (void)x;
    (void)z;
    (void)p;
    return -dy;
}

static float sp_g_over(float dy, float x1, float z, const float *p) {
    (void)z;
    (void)p;
    return dy / x1;
}

/* Of a divisor, from it and the quotient, or the dividend. */
static float sp_g_divisor(float dy, float x1, float y, const float *p) {
    (void)p;
    return dy * (-y / x1);
}

static float sp_g_divisor_input(float dy, float x1, float x0, const float *p) {
    (void)p;
    return dy * (-(x0 / x1) / x1);
}

static float sp_g_larger_first(float dy, float x0, float other, const float *p) {
    (void)p;
    return x0 >= other ? dy : 0.0f;
}

static float sp_g_larger_second(float dy, float x0, float other, const float *p) {
    (void)p;
    return x0 >= other ? 0.0f : dy;
}

static float sp_g_smaller_first(float dy, float x0, float other, const float *p) {
    (void)p;
    return x0 <= other ? dy : 0.0f;
}

static float sp_g_smaller_second(float dy, float x0, float other, const float *p) {
    (void)p;
    return x0 <= other ? 0.0f : dy;
}

/* Inputs side by side along an axis; n: extents in front of it, elements behind it, then each input's extent. */
static void sp_concat(const sp_args *a) {
    const sp_view *w = &sp_views[a->w[0]];
    uint32_t outer = (uint32_t)a->n[0], inner = (uint32_t)a->n[1], total = 0, q, b, o, j, at = 0;
    for (q = 0; q < a->reads; q++) total += (uint32_t)a->n[2 + q];
    for (q = 0; q < a->reads; q++) {
        const sp_view *x = &sp_views[a->r[q]];
        uint32_t n = (uint32_t)a->n[2 + q] * inner;
        for (b = 0; b < SP_BATCH; b++)
            for (o = 0; o < outer; o++)
                for (j = 0; j < n; j++) sp_put(w, b, o * total * inner + at * inner + j, sp_get(x, b, o * n + j));
        at += (uint32_t)a->n[2 + q];
    }
}
