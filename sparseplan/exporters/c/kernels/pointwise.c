/* Ops that compute element by element, in place where the plan says so. */

/* y = f(x) */
static void sp_map(const sp_args *a, sp_f1 f) {
    const sp_view *x = &sp_views[a->r[0]];
    uint32_t q, b, k, j;
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            while (n) {
                sp_seg s = sp_at(x, b, i), t = sp_at(w, b, i);
                uint32_t m = sp_min(n, sp_min(s.run, t.run));
                for (j = 0; j < m; j++) sp_st(w, &t, j, f(sp_ld(x, &s, j), a->f));
                i += m;
                n -= m;
            }
        }
    }
}

/* dx = f(dy, what was saved) */
static void sp_map2(const sp_args *a, sp_f2 f) {
    const sp_view *x = &sp_views[a->r[0]], *z = &sp_views[a->r[1]];
    uint32_t q, b, k, j;
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            while (n) {
                sp_seg s = sp_at(x, b, i), u = sp_at(z, b, i), t = sp_at(w, b, i);
                uint32_t m = sp_min(sp_min(n, u.run), sp_min(s.run, t.run));
                for (j = 0; j < m; j++) sp_st(w, &t, j, f(sp_ld(x, &s, j), sp_ld(z, &u, j), a->f));
                i += m;
                n -= m;
            }
        }
    }
}

static float sp_same(float x, const float *p) {
    (void)p;
    return x;
}

static float sp_f_relu(float x, const float *p) {
    (void)p;
    return x > 0.0f || x != x ? x : 0.0f;
}

static float sp_f_relu6(float x, const float *p) {
    (void)p;
    return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x;
}

static float sp_f_leaky_relu(float x, const float *p) {
    float y = x * p[0];
    return p[0] <= 1.0f ? (x > y ? x : y) : (x < y ? x : y);
}

static float sp_f_positive(float x, const float *p) {
    (void)p;
    return x > 0.0f ? 1.0f : 0.0f;
}

static float sp_f_between(float x, const float *p) {
    return x > p[0] && x < p[1] ? 1.0f : 0.0f;
}

static float sp_g_relu(float dy, float kept, const float *p) {
    (void)p;
    return kept > 0.0f ? dy : dy * 0.0f;
}

static float sp_g_leaky_relu(float dy, float kept, const float *p) {
    return kept > 0.0f ? dy : dy * p[0];
}

static float sp_g_between(float dy, float kept, const float *p) {
    return kept > p[0] && kept < p[1] ? dy : dy * 0.0f;
}

static float sp_sigmoid_of(float x) {
    float small = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : small) / (1.0f + small);
}

static float sp_f_sigmoid(float x, const float *p) {
    (void)p;
    return sp_sigmoid_of(x);
}

static float sp_g_sigmoid(float dy, float y, const float *p) {
    (void)p;
    return dy * y * (1.0f - y);
}

static float sp_f_tanh(float x, const float *p) {
    (void)p;
    return tanhf(x);
}

static float sp_g_tanh(float dy, float y, const float *p) {
    (void)p;
    return dy * (1.0f - y * y);
}

static float sp_f_hardswish(float x, const float *p) {
    float z = x + 3.0f;
    (void)p;
    return x * ((z < 0.0f ? 0.0f : z > 6.0f ? 6.0f : z) / 6.0f);
}

static float sp_g_hardswish(float dy, float x, const float *p) {
    (void)p;
    return x <= -3.0f ? 0.0f : dy * (x >= 3.0f ? 1.0f : x / 3.0f + 0.5f);
}

/* A value a channel: y[c] = weight[c] * x[c] (+ bias[c]); n: elements of a channel, whether there is a bias. */
static void sp_affine(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *g = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, inner = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        while (n) {
            sp_seg s = sp_at(x, b, i), t = sp_at(w, b, i);
            uint32_t c = i / inner, m = sp_min(sp_min(n, inner - i % inner), sp_min(s.run, t.run));
            float scale = sp_get(g, 0, c), shift = a->n[1] ? sp_get(&sp_views[a->r[2]], 0, c) : 0.0f;
            for (j = 0; j < m; j++) {
                float y = sp_ld(x, &s, j) * scale;
                sp_st(w, &t, j, a->n[1] ? y + shift : y);
            }
            i += m;
            n -= m;
        }
    }
}

/* dx[c] = dy[c] * weight[c] */
static void sp_affine_grad(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *g = &sp_views[a->r[1]];
    uint32_t q, b, k, j, inner = (uint32_t)a->n[0];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            while (n) {
                sp_seg s = sp_at(x, b, i), t = sp_at(w, b, i);
                uint32_t m = sp_min(sp_min(n, inner - i % inner), sp_min(s.run, t.run));
                float scale = sp_get(g, 0, i / inner);
                for (j = 0; j < m; j++) sp_st(w, &t, j, sp_ld(x, &s, j) * scale);
                i += m;
                n -= m;
            }
        }
    }
}

/* Sum of a run of products of two arrays, range by range. */
static float sp_dot(const sp_view *x, uint32_t i, const sp_view *y, uint32_t k, uint32_t n, uint32_t b) {
    float total = 0.0f;
    while (n) {
        sp_seg s = sp_at(x, b, i), t = sp_at(y, b, k);
        uint32_t m = sp_min(n, sp_min(s.run, t.run)), j;
        float part = 0.0f;
        if (m > 64u) m = 64u;
        for (j = 0; j < m; j++) part += sp_ld(x, &s, j) * sp_ld(y, &t, j);
        total += part;
        i += m;
        k += m;
        n -= m;
    }
    return total;
}

static float sp_sum(const sp_view *x, uint32_t i, uint32_t n, uint32_t b) {
    float total = 0.0f;
    while (n) {
        sp_seg s = sp_at(x, b, i);
        uint32_t m = sp_min(sp_min(n, 64u), s.run), j;
        float part = 0.0f;
        for (j = 0; j < m; j++) part += sp_ld(x, &s, j);
        total += part;
        i += m;
        n -= m;
    }
    return total;
}

/* dw[c] = sum of dy * x over all but axis c of (outer, c, inner); n: outer, channels, inner, channels that are kept. */
static void sp_channel_dot(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *x = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t c, b, o, outer = (uint32_t)a->n[0], channels = (uint32_t)a->n[1], inner = (uint32_t)a->n[2];
    for (c = 0; c < (uint32_t)a->n[3]; c++) {
        float total = 0.0f;
        for (b = 0; b < SP_BATCH; b++)
            for (o = 0; o < outer; o++) {
                uint32_t i = (o * channels + c) * inner;
                total += sp_dot(dy, i, x, i, inner, b);
            }
        sp_put(w, 0, c, total);
    }
}

/* db[c] = sum of dy over all but axis c of (outer, c, inner); n: outer, channels, inner. */
static void sp_channel_sum(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t c, b, o, outer = (uint32_t)a->n[0], channels = (uint32_t)a->n[1], inner = (uint32_t)a->n[2];
    for (c = 0; c < channels; c++) {
        float total = 0.0f;
        for (b = 0; b < SP_BATCH; b++)
            for (o = 0; o < outer; o++) total += sp_sum(dy, (o * channels + c) * inner, inner, b);
        sp_put(w, 0, c, total);
    }
}
